"""OrionOS: a FUSE read cache for diskless nodes, and the workbench around it."""

__version__ = "0.1.0"
