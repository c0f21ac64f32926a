"""A run under a ceiling of the GPU's memory: what is needed, where it stands, and the plan of it."""
