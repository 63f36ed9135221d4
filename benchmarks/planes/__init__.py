"""Ways to a loss and its gradient, each in processes of its own, for benchmarks/bench_planes.py."""
