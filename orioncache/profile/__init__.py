"""Profiles: what the boots of a role read, learned from traces. The workbench's; nodes read bundles."""
