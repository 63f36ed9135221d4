"""Tests of heads and their parts."""
