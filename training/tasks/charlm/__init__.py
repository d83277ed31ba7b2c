"""The character model `charlm`: after each character of a text, how likely each next character is.

Nothing here knows words, labels or series.
Invariant: state goes on from chunk to chunk in training as it does in service.
"""
