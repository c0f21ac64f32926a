"""What the model costs and how well it does: counts, times, memory, distances. Not shipped."""
