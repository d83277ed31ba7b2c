"""The names of tensors: how well two names fit a state and its next value.

It knows words, not graphs. Invariant: names agree only if they share the words that name the thing.
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
    """Return how alike two names are, from 0 to 1. Words like `in` and `next` do not count: h0 and hn are the same."""
    (words, number), (others, other_number) = _stem(given), _stem(made)
    one, other = "".join(words), "".join(others)
    same = difflib.SequenceMatcher(None, one, other).ratio() if one and other else 0.0
    return same / 2 if _differ(number, other_number) else same


def agree(given: str, made: str) -> bool:
    """Return whether two names are of the same thing; action_masks and continuous_actions are not."""
    (words, number), (others, other_number) = _stem(given), _stem(made)
    one, other = ({re.sub(r"(?<=..)s$", "", word) for word in each} for each in (words, others))  # of any number
    return bool(one & other) and one ^ other <= KINDS and not _differ(number, other_number)


def _differ(number: str, other: str) -> bool:
    return bool(number and other and number != other)


def _stem(name: str) -> tuple[list[str], str]:
    """Return the words of a name that say what the tensor is, and its digits."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)]
    letters = [word for word in words if not word.isdigit() and word not in DIRECTIONS]
    letters = [word[0] if re.fullmatch(r"[a-z](n|t|in|out|x)", word) else word for word in letters]  # hn, cx
    return letters, "".join(word for word in words if word.isdigit())
