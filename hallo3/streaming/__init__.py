"""Networks whose weights come to the device as they are needed, from the host's memory or from disk."""
