"""Offloading: GPU memory of a run, plans that keep it under a limit, and weight streaming."""
