"""A boot replayed from its trace, over any link, with any heuristics: seconds instead of boots."""
