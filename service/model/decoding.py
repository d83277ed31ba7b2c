"""Text of ids as they come, one by one.

It knows tokenizers, not models. Invariants: a character is given when it is whole, or can no longer become so; nothing
is given of a text that ends the sequence, nor what may be the begin of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from service.model.vocabulary import UNFINISHED, without_panics

MOST_LACKING = 3  # ids that a character may lack: it has at most four bytes
MOST_BEFORE = 8  # ids that may decide how the next is written, as whether a space stands before it


class Decoding:
    """The text of a sequence, up to the first of `stops`; `stopped` says that one came.

    `length` counts the characters so far, those that are held back too.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], stops: Sequence[str]) -> None:
        """Begin behind the ids `before`, whose text is not given, but for a character that they leave unfinished.

        Raises: Exception, the library's own, for ids that it fails on.
        """
        self._tokenizer, self._stops = tokenizer, stops
        self._window: list[int] = []  # the ids that the last text came from, and those since
        self._read = 0  # how many of them have been read
        self._ready = self._held = ""
        self.stopped, self.length = False, 0
        for token in before:
            self._read_on(token)

    def add(self, token: int) -> None:
        """Take in the next id.

        Raises: Exception, the library's own, for an id that it fails on.
        """
        piece = self._read_on(token)
        self.length += len(piece)
        if not self._stops:
            self._ready += piece
            return
        self._held += piece
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        sure = min(found) if found else len(self._held) - self._doubtful()
        self._ready += self._held[:sure]
        self._held = "" if found else self._held[sure:]

    def end(self) -> None:
        """Say that no id will come: what may have been the begin of a stop text is none."""
        self._ready, self._held = self._ready + self._held, ""

    @property
    def has_text(self) -> bool:
        """Whether there is text that was not taken."""
        return bool(self._ready)

    @property
    def holds_back(self) -> bool:
        """Whether there is text that cannot be given yet."""
        return bool(self._held) or self._read < len(self._window)

    def take(self) -> str:
        """Return the text since the last call."""
        taken, self._ready = self._ready, ""
        return taken

    def _read_on(self, token: int) -> str:
        """Return the text that the next id adds: how much longer the text of the window becomes.

        Ids at the end that may be parts of a character are not read before the rest of it is there.
        """
        self._window.append(token)
        for lacking in range(MOST_LACKING + 1):
            read = len(self._window) - lacking
            if read <= self._read:
                return ""
            text = self._text(read)
            if not text.endswith(UNFINISHED):
                break
        piece = text[len(self._text(self._read)) :]
        begin = self._read if piece else max(0, read - MOST_BEFORE)
        del self._window[:begin]
        self._read = read - begin
        return piece

    def _text(self, count: int) -> str:
        """Return the text of the first ids of the window."""
        with without_panics():
            return self._tokenizer.decode(self._window[:count]) if count else ""

    def _doubtful(self) -> int:
        """Return how many characters at the end may be the begin of a stop text."""
        longest = max(map(len, self._stops)) - 1
        return next(
            size
            for size in range(min(longest, len(self._held)), -1, -1)
            if any(stop.startswith(self._held[len(self._held) - size :]) for stop in self._stops)
        )
