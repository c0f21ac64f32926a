"""Files on disk: atomic writes, JSON, hashes, locks."""
