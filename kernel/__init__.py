"""Kernels for diskless nodes: fragments of configuration, and what configures, builds and checks them."""
