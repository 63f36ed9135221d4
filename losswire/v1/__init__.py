"""Stubs generated from protos/losswire/v1 by `make protos`. Committed; never edited."""
