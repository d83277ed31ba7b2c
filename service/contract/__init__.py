"""What is servable: the manifest of a model version, its tensors, its provenance, and its files.

It knows pydantic and the standard library, not graphs and not requests. Invariant: a manifest that exists is consistent
in itself. Training validates what it publishes with the same code.
"""
