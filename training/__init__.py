"""Trains the built-in model. Not needed to use it, and not part of the installed package."""
