"""Speculative prefetch: heuristics say what will be asked for, a scheduler what is worth fetching."""
