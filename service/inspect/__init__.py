"""Drafts of manifests for foreign graphs. No request comes here.

It knows graphs and the usual names of tensors. It does not know what the numbers mean, and every draft says so.
Invariant: a draft without a problem is served as it stands.
"""
