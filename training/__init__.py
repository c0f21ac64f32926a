"""Training Hallo3's networks: for those who make weights, not for those who use them."""
