"""The embedded store's file: an LMDB of values by name, and of names by the time of their last use.

    names   name of a snapshot or key of a record, 16 bytes -> stamp uint64
    pieces  stamp uint64 | place uint32 -> a piece of the name and the value, one after the other

A stamp is the time of the last use in microseconds since 1970, and larger than every stamp before it: should the clock
be put back, the order of uses stays. So what was unused for longest is in the first pieces, and new ones go to the end.
Two pieces fit a page: a whole state would need pages side by side, which a file that is full soon has no more.

No transaction waits for the disk: what a process has committed is in the kernel's hands, and outlives the process. This
knows no asyncio and no metrics. Invariants: a transaction is whole or has not been; the file grows to `max_bytes` at
most; what is evicted is what was unused for longest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import lmdb

from service.state.stores.store import MARK_BYTES, NAME_BYTES, NO_MARK, verified

DATA = "data.mdb"  # so LMDB calls it
FORMAT = b"baton states 1"
READERS = 1024  # one for each process, and for each that died since the last look
STAMP = struct.Struct(">Q")
PLACE = struct.Struct(">I")
NODE_BYTES = 32  # what LMDB and the key take besides a piece, rounded up
US = 1_000_000
RESERVE = 4  # a quarter of the file is left for pages that are freed, and can be used again two transactions later
EVICTED_AT_ONCE = 256  # 2 ms; where more is to go, the next transactions go on
EVICTED_SHARE = 8  # nor more than this part of the pages in reserve, for each may change a page
NOTED_S = 60  # a use is noted when the last one noted is longer ago than this, or than
NOTED_SHARE = 60  # this part of the time to live


class ForeignFormat(Exception):
    """The file is an LMDB, but not of snapshots as they are written here."""


class Shortened(Exception):
    """The file ends before what it says it holds; whoever reads there dies."""


class Change(NamedTuple):
    """A value to be kept under a name, None for nothing; with `before`, only if what is there has that mark."""

    name: bytes
    value: bytes | None
    before: bytes | None = None


@dataclass(slots=True)
class Done:
    """How many values went, for their age or for space, and how many there are, in how many bytes of the file; and of
    the changes that were asked for, which were `made`."""

    aged: int = 0
    crowded_out: int = 0
    snapshots: int = 0
    bytes: int = 0
    made: list[bool] = field(default_factory=list)

    @property
    def evicted(self) -> int:
        return self.aged + self.crowded_out

    def after(self, before: Done) -> Done:
        """Return both as one."""
        aged, crowded_out = before.aged + self.aged, before.crowded_out + self.crowded_out
        return Done(aged, crowded_out, self.snapshots, self.bytes, self.made)


class Database:
    """Values in the LMDB of `folder`, for at most `ttl_s` after their last use and in at most `max_bytes`.

    A process has one of a folder at a time. Who writes has the turn: LMDB would let others wait without an end.

    Raises: lmdb.Error or OSError, here and in every method, where the file cannot be used; here ForeignFormat or
    Shortened.
    """

    def __init__(self, folder: Path, *, max_bytes: int, ttl_s: int) -> None:
        self._ttl_us = US * ttl_s
        self._noted_us = min(US * NOTED_S, self._ttl_us // NOTED_SHARE)
        file = folder / DATA
        left_bytes = file.stat().st_size if file.exists() else 0
        room_to_evict = max_bytes // RESERVE if left_bytes > max_bytes else 0  # the file may be full, by a higher limit
        self._env = lmdb.open(
            str(folder),
            map_size=max(max_bytes, left_bytes + room_to_evict),
            max_dbs=2,
            max_readers=READERS,
            mode=0o600,
            sync=False,
            readahead=False,
        )
        try:
            self._page_bytes = self._env.stat()["psize"]
            if file.stat().st_size < self._page_bytes * (self._env.info()["last_pgno"] + 1):
                raise Shortened
            self._env.reader_check()
            self._piece_bytes = self._page_bytes // 2 - NODE_BYTES
            reserve = max_bytes // RESERVE // self._page_bytes
            self._most_pages = max_bytes // self._page_bytes - reserve
            self._evicted_at_once = min(EVICTED_AT_ONCE, reserve // EVICTED_SHARE)
            with self._env.begin(write=True) as txn:
                if txn.stat()["entries"] == 0:
                    txn.put(b"format", FORMAT)
                elif txn.get(b"format") != FORMAT:
                    raise ForeignFormat
                self._names = self._env.open_db(b"names", txn)
                self._pieces = self._env.open_db(b"pieces", txn)
        except BaseException:
            self._env.close()
            raise

    def find(self, names: Sequence[bytes], now_us: int) -> tuple[list[bytes | None], list[bytes]]:
        """Return the state of each name, None where it is gone, and the names whose use is to be noted."""
        found: list[bytes | None] = []
        unnoted = []
        with self._begin() as txn:
            pieces = txn.cursor(self._pieces)
            for name in names:
                stamp = self._stamp(txn, name, now_us)
                found.append(None if stamp is None else _joined(pieces, stamp, name))
                if stamp is not None and STAMP.unpack(stamp)[0] + self._noted_us < now_us:
                    unnoted.append(name)
        return [verified(name, state) for name, state in zip(names, found, strict=True)], unnoted

    def read(self, key: bytes, now_us: int) -> bytes | None:
        """Return the value of a record, None where it is gone."""
        with self._begin() as txn:
            stamp = self._stamp(txn, key, now_us)
            return None if stamp is None else _joined(txn.cursor(self._pieces), stamp, key)

    def write(self, changes: Sequence[Change], used: Sequence[bytes], now_us: int) -> Done:
        """Make the changes, in their order, and note the uses of other names, all or none; evict what is old, or in the
        way."""
        done = Done()
        for _ in range(RESERVE):
            try:
                return self._write(changes, used, now_us).after(done)
            except lmdb.MapFullError:  # what was freed may be used two transactions later, and when no reader is left
                self._env.reader_check()
                done = self.trim(now_us).after(done)
                with self._begin(write=True) as txn:
                    txn.put(b"format", FORMAT)  # a change, and so a transaction
        return self._write(changes, used, now_us).after(done)

    def trim(self, now_us: int) -> Done:
        """Evict all that is old, or beyond what a lowered limit allows."""
        done = Done()
        while True:
            with self._begin(write=True) as txn:
                more = self._evict(txn, now_us)
            done = more.after(done)
            if not more.evicted:
                return done

    def sync(self) -> None:
        """Return when what was committed is on the disk; any thread may wait for it."""
        self._env.sync(True)

    def close(self) -> None:
        """Let go of the file, which is on the disk then."""
        try:
            self.sync()
        finally:
            self._env.close()

    def _write(self, changes: Sequence[Change], used: Sequence[bytes], now_us: int) -> Done:
        with self._begin(write=True) as txn:
            pieces = txn.cursor(self._pieces)
            newest = STAMP.unpack_from(pieces.key())[0] if pieces.last() else 0
            stamp = max(now_us, newest + 1)
            for name in used:
                before = self._stamp(txn, name, now_us)
                if before is not None:
                    self._put(txn, pieces, name, _joined(pieces, before, name), stamp)
                    stamp += 1
            made = []
            for name, value, mark in changes:
                made.append(mark is None or mark == self._mark(txn, name, now_us))
                if made[-1] and value is not None:
                    self._put(txn, pieces, name, value, stamp)
                    stamp += 1
                elif made[-1]:
                    self._remove(txn, pieces, name)
            done = self._evict(txn, now_us)
            done.made = made
            return done

    def _stamp(self, txn: lmdb.Transaction[bytes], name: bytes, now_us: int) -> bytes | None:
        """Return the stamp of what is there and not too old."""
        stamp = txn.get(name, db=self._names)
        return stamp if stamp is not None and STAMP.unpack(stamp)[0] + self._ttl_us > now_us else None

    def _mark(self, txn: lmdb.Transaction[bytes], key: bytes, now_us: int) -> bytes:
        stamp = self._stamp(txn, key, now_us)
        if stamp is None:
            return NO_MARK
        first = txn.get(stamp + PLACE.pack(0), b"", db=self._pieces)
        return first.removeprefix(key)[:MARK_BYTES]

    def _remove(self, txn: lmdb.Transaction[bytes], pieces: lmdb.Cursor[bytes], name: bytes) -> None:
        stamp = txn.pop(name, db=self._names)
        if stamp is not None:
            _delete(pieces, stamp)

    def _put(
        self, txn: lmdb.Transaction[bytes], pieces: lmdb.Cursor[bytes], name: bytes, state: bytes, stamp: int
    ) -> None:
        key, text = STAMP.pack(stamp), name + state
        before = txn.replace(name, key, db=self._names)
        if before is not None:
            _delete(pieces, before)
        starts = range(0, len(text), self._piece_bytes)
        pieces.putmulti(
            [(key + PLACE.pack(start), text[start : start + self._piece_bytes]) for start in starts], append=True
        )

    def _evict(self, txn: lmdb.Transaction[bytes], now_us: int) -> Done:
        done, pieces = Done(), txn.cursor(self._pieces)
        pages = self._pages(txn)
        while done.evicted < self._evicted_at_once and pieces.first():
            key, text = pieces.item()
            if STAMP.unpack_from(key)[0] + self._ttl_us <= now_us:
                done.aged += 1
            elif pages > self._most_pages:
                done.crowded_out += 1
            else:
                break
            txn.delete(text[:NAME_BYTES], db=self._names)
            _delete(pieces, key[: STAMP.size])
            pages = self._pages(txn)
        done.snapshots, done.bytes = txn.stat(self._names)["entries"], pages * self._page_bytes
        return done

    def _pages(self, txn: lmdb.Transaction[bytes]) -> int:
        return sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            for stat in (txn.stat(self._names), txn.stat(self._pieces))
        )

    def _begin(self, *, write: bool = False) -> lmdb.Transaction[bytes]:
        try:
            return self._env.begin(write=write)
        except lmdb.MapResizedError:  # another service is allowed a larger file
            self._env.set_mapsize(0)
        except lmdb.ReadersFullError:
            self._env.reader_check()
        return self._env.begin(write=write)


def _joined(pieces: lmdb.Cursor[bytes], stamp: bytes, name: bytes) -> bytes:
    found = pieces.set_range(stamp)
    text = []
    while found and pieces.key().startswith(stamp):
        text.append(pieces.value())
        found = pieces.next()
    return b"".join(text).removeprefix(name)


def _delete(pieces: lmdb.Cursor[bytes], stamp: bytes) -> None:
    found = pieces.set_range(stamp)
    while found and pieces.key().startswith(stamp):
        found = pieces.delete()
