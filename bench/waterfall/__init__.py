"""One boot as a waterfall: what was asked for, what was fetched, and what became of that."""
