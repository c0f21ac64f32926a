"""Elementwise work between the matrix products: by torch's own operations, or one kernel for each.

There are four, and no more: norm + modulation, query/key norm + rotation, gate + residual, Linear + GELU.
"""
