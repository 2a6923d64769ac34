"""The image that a node boots, and its builder."""
