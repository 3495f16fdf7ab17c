"""A run: the loop, the store of finished requests, plan, progress, provenance."""
