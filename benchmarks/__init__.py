"""Benchmarks: one module a question, named after the stage it measures."""
