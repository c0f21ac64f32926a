"""What a talking face should do, measured: from a recording and from pictures alone, without any network."""
