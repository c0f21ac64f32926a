"""Speech: from a waveform at the encoder's rate to windows of features, one a video frame."""
