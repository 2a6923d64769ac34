"""Releases: immutable trees with a version, described by a manifest, their content in packs."""
