"""The names of tensors: how far two of them say that one is the next value of the other.

It knows words, not graphs. Invariant: names agree in the words that stand for a thing, or they say nothing.
"""

from __future__ import annotations

import difflib
import re

DIRECTIONS = {
    *("in", "out", "input", "output", "prev", "previous", "past", "new", "next", "cur", "current", "present"),
    *("init", "initial", "start", "final", "last", "old", "updated", "n", "t"),
}
KINDS = {"state", "hidden", "rnn", "lstm", "gru", "y", "tensor", "value"}  # may be said of either alone: initial_h, Y_h


def likeness(given: str, made: str) -> float:
    """Return how much alike two names are, 0 to 1, words such as `in` and `next` left out: h0 and hn are the same."""
    (words, number), (others, other_number) = _stem(given), _stem(made)
    one, other = "".join(words), "".join(others)
    same = difflib.SequenceMatcher(None, one, other).ratio() if one and other else 0.0
    return same / 2 if _differ(number, other_number) else same


def agree(given: str, made: str) -> bool:
    """Return whether the names say that both are one thing: action_masks and continuous_actions do not."""
    (words, number), (others, other_number) = _stem(given), _stem(made)
    one, other = ({re.sub(r"(?<=..)s$", "", word) for word in each} for each in (words, others))  # of any number
    return bool(one & other) and one ^ other <= KINDS and not _differ(number, other_number)


def _differ(number: str, other: str) -> bool:
    return bool(number and other and number != other)


def _stem(name: str) -> tuple[list[str], str]:
    """Return the words of a name that stand for what it is, and its digits."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)]
    letters = [word for word in words if not word.isdigit() and word not in DIRECTIONS]
    letters = [word[0] if re.fullmatch(r"[a-z](n|t|in|out|x)", word) else word for word in letters]  # hn, cx
    return letters, "".join(word for word in words if word.isdigit())
