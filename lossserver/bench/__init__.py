"""A load generator: how fast does a server answer, and how many?

The file names are its pipeline:

    options → calls → (processes of) load → outcomes → figures → report

`load` runs in processes of its own and never imports torch: a generator that
is slow measures itself. docs/bench.md says how to read what it prints.
"""
