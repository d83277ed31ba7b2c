"""Model versions at work: tried, loaded, probed, warmed, looked up by name, retired.

It knows models, batches and settings, not tokens and not requests. Invariant: an engine that answers has passed every
check, in a process of its own first.
"""
