"""Elementwise work between the matrix products, as torch operations (``eager.py``) or fused kernels
(``fused.py``): norm + modulation, query/key norm + rotation, gate + residual, Linear + GELU."""
