"""Checkpoints: key maps between the original's names and ours, files, strict loading."""
