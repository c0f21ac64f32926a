"""The text prompt: tokens, then T5's embedding of them."""
