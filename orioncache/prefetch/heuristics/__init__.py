"""The heuristics that come with orioncache; docs/prefetch.md tells how to write another."""
