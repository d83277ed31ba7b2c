"""A new file with all that another one still holds: `python -m service.state.stores.rebuild FROM TO all|snapshots`.

After a power failure any page of a file that nobody waited for may be an old one, and a process that follows it may
end. So this is a process of its own, and what it has written by then stays. A record may then be older than one whose
step was answered, and so `snapshots` leaves all records behind. Invariant: what is in the new file was saved under its
name; status 0 says that it is all that was to be kept, FOREIGN and FULL that the old one must stay.
"""

from __future__ import annotations

import errno
import sys
from itertools import groupby, islice
from pathlib import Path

import lmdb

from service.state.stores.database import DATA, FORMAT, STAMP, ForeignFormat
from service.state.stores.store import NAME_BYTES, is_record, name_of

ALL, SNAPSHOTS = "all", "snapshots"
FOREIGN, FULL = 3, 4
AT_ONCE = 16
SPARE_BYTES = 2**24  # what an empty file takes, and more


def rebuild(source: Path, target: Path, *, records: bool) -> bool:
    """Copy each snapshot, and with `records` each record, that is what was saved into a folder that is empty; return
    whether all of them were.

    Raises: lmdb.Error or ValueError where the source cannot be read on; lmdb.Error where the target cannot be written;
    ForeignFormat.
    """
    room = 2 * (source / DATA).stat().st_size + SPARE_BYTES
    try:
        old = lmdb.open(str(source), readonly=True, lock=False, max_dbs=2)
    except lmdb.Error as failure:
        raise ForeignFormat from failure
    kept = left = 0
    with old.begin() as reading:
        if (made_as := reading.get(b"format")) is None:
            raise ValueError("the page that says what the file is cannot be read")
        if made_as != FORMAT:
            raise ForeignFormat
        new = lmdb.open(str(target), map_size=room, mode=0o600, sync=False, max_dbs=2)
        names, pieces = new.open_db(b"names"), new.open_db(b"pieces")
        with new.begin(write=True) as txn:
            txn.put(b"format", FORMAT)
        total = reading.stat(old.open_db(b"names", reading, create=False))["entries"]
        cursor = reading.cursor(old.open_db(b"pieces", reading, create=False))
        values = groupby(cursor, key=lambda piece: piece[0][: STAMP.size])
        while some := [(stamp, list(group)) for stamp, group in islice(values, AT_ONCE)]:
            with new.begin(write=True) as txn:
                for stamp, group in some:
                    text = b"".join(piece for _, piece in group)
                    name, value = text[:NAME_BYTES], text[NAME_BYTES:]
                    a_record = is_record(name, value)
                    if a_record and not records:
                        left += 1
                    elif (a_record or name_of(value) == name) and txn.put(name, stamp, db=names, overwrite=False):
                        txn.cursor(pieces).putmulti(group, append=True)
                        kept += 1
            print(f"{kept} of {total} kept", flush=True)
    new.sync(True)
    return kept + left == total


if __name__ == "__main__":
    try:
        sys.exit(0 if rebuild(Path(sys.argv[1]), Path(sys.argv[2]), records=sys.argv[3] == ALL) else 1)
    except ForeignFormat:
        sys.exit(FOREIGN)
    except lmdb.Error as failure:
        if failure.code == errno.ENOSPC:
            sys.exit(FULL)
        raise
