"""Files and frames: pictures and recordings in, video out, and the canvas between."""
