"""Who is in the picture: boxes, masks and identity embeddings."""
