"""Compares this package with recorded runs of the original; one module per kind of golden."""
