"""Use cases: what teams can do, and the rules about it."""
