"""What is finished of a render, kept so that nothing is rendered twice. Knows nothing of models."""
