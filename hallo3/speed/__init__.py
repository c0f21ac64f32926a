"""How fast a device and its models are, measured."""
