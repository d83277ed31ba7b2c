"""Drafts of manifests for graphs that others made, off the path of requests.

It knows graphs and what people call their tensors, not what the numbers mean, and every draft says so. Invariant: a
draft without a doubt is served as it stands.
"""
