"""The 3D causal VAE."""
