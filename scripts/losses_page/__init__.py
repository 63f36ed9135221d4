"""docs/losses.md: the losses, read from their docstrings and drawn by calling them.

curves.py   what is drawn of a loss, and its values and gradients
axes/       that for each loss, a module a family of the page
plots.py    curves → docs/losses/NAME.svg
page.py     docstrings → docs/losses.md
"""
