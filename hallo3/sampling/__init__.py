"""Schedule, denoiser and samplers: knows nothing of networks, pictures or sound."""
