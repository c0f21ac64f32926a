"""Many videos on many workers: who renders which row, whatever dies on the way."""
