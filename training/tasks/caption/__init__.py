"""An image's vector in, a caption out, word by word: the kind of recipe `caption`.

Nothing here knows pixels, nor the network that the vectors come from.
Invariant: words are learned from the training part alone, and none is written that train does not hold often enough.
"""
