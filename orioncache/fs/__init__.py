"""The file system: FUSE requests, the live tree that answers them, and the blocks that it reads."""
