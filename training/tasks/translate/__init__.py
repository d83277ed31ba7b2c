"""A sentence in, its translation out: the kind of recipe `translate`.

Nothing here knows labels, series or audio.
Invariant: what is read and what is written have a tokenizer each, learned from the training part alone.
"""
