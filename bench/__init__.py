"""The workbench: boots nodes under QEMU and measures them. Never imported on a node."""
