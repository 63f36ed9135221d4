"""The server: builds a loss from a config, runs it with autograd, returns loss and gradient."""

__version__ = "0.1.0"
