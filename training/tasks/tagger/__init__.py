"""Words in, a part of speech for each out: the kind of recipe `tagger`, in both directions or in one that streams.

Nothing here knows texts with one label, or series.
Invariant: a word's label is that of the first piece that the tokenizer makes of it.
"""
