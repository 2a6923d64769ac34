"""Kernels for diskless nodes: fragments, and the build around them."""
