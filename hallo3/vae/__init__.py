"""The 3D causal VAE: pixels to latents and back, in the original's slices."""
