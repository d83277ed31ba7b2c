"""What models of characters share: a tokenizer for which each character of a text is one token.

It knows characters, not networks or data. Invariant: the ids of a text are those of its parts, however it is cut.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

UNKNOWN = "[UNK]"


def make_tokenizer(characters: str) -> Tokenizer:
    """Return a tokenizer of single characters: `characters` have the ids from 0 in their order, any other the next one.

    It keeps case, spaces and line breaks, and knows no word, not even "[UNK]": that is five characters too.
    """
    ids = {character: number for number, character in enumerate([*characters, UNKNOWN])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    return tokenizer
