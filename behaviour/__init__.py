"""Measures a talking face from its pixels and its speech, without any network."""
