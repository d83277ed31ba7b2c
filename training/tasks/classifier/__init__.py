"""Texts in, a label out: the kinds of recipe `sentiment` and `spam` share text, networks and training.

Nothing here knows models of characters or of series.
Invariant: a text's tokens and scores are the same alone and in any batch.
"""
