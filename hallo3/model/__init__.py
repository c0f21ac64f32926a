"""The mathematics: the diffusion transformer, the reference network and their projections."""
