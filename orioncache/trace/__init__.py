"""Traces: what the kernel asked of a release, when, and how long it waited. docs/trace.md has the format."""
