"""The folder of the embedded store: opened by one process at a time, mended where it must be, written in turns.

    data.mdb, lock.mdb  LMDB's
    users.lock          locked by every process that has the folder open; who has it alone may replace data.mdb
    turn.lock           locked by the process that writes
    boot                which start of the machine data.mdb was last opened in

It knows files, locks and processes, not what it holds. The kernel lets go of a dead process' locks. Invariant:
a file is replaced only when no process uses it or when it was cut short, and never one that is not of this store.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb

from service.errors import SettingsError
from service.state.stores.database import DATA, Database, Done, ForeignFormat, Shortened
from service.state.stores.rebuild import ALL, FOREIGN, FULL, SNAPSHOTS

log = logging.getLogger("baton.store")

FOLDER = "states"
LOCK = "lock.mdb"
LOCK_BYTES = 69_632  # of LMDB's table of readers
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "afs", "fuse.sshfs", "fuse.glusterfs"}
OPENING_S = 120.0  # for another process to open, or mend
POLL_S = 0.01
SYNC_S = 5.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ELSEWHERE = "set BATON_STATE_DIR to another directory, or BATON_STORE to memory or a Redis"
Problem = OSError | lmdb.Error | ForeignFormat | Shortened


class Folder:
    """The embedded store in `state_dir`, open; `database` is what it holds, `trimmed` what has gone as it was opened.

    Raises: SettingsError when it cannot be used.
    """

    def __init__(
        self, state_dir: Path, *, max_bytes: int, ttl_s: int, now_us: int, patience_s: float = OPENING_S
    ) -> None:
        self._path = state_dir / FOLDER
        self._data = str(self._path / DATA)  # asked for with every use
        self._locks: list[int] = []
        try:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            _refuse_remote(self._path)
            self._users, self._turn = self._lock_file("users.lock"), self._lock_file("turn.lock")
            self._wait_for_turn(patience_s)
            self.database, self.trimmed = self._open(max_bytes, ttl_s, now_us)
            self._opened = self._file()
            fcntl.flock(self._users, fcntl.LOCK_SH)
            self.give_turn()
            self._closing, self._syncer = threading.Event(), threading.Thread(target=self._sync, daemon=True)
            self._syncer.start()
        except (OSError, lmdb.Error, ForeignFormat, Shortened) as failure:
            self._unlock()
            raise SettingsError(_explain(self._path / DATA, failure)) from failure
        except BaseException:
            self._unlock()
            raise

    @property
    def is_current(self) -> bool:
        """Whether the file is the one that was opened, and was not deleted meanwhile."""
        return self._file() == self._opened

    def take_turn(self) -> bool:
        """Return whether this process may write now, which it may until `give_turn`."""
        try:
            return _locked(self._turn)
        except OSError as failure:  # the kernel may be short of locks
            log.warning("%s cannot be locked: %s", self._path / "turn.lock", failure)
            return False

    def give_turn(self) -> None:
        """Let others write."""
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the files."""
        self._closing.set()
        self._syncer.join()
        try:
            self.database.close()
        finally:
            self._unlock()

    def _sync(self) -> None:
        """Have the disk follow, from a thread: in between it changes little, and no power failure finds it halfway."""
        while not self._closing.wait(SYNC_S):
            try:
                self.database.sync()
            except lmdb.Error as failure:
                log.warning("%s is not on the disk: %s", self._path / DATA, failure)

    def _file(self) -> tuple[int, int] | None:
        """Return which file is there, by device and number; None where there is none."""
        try:
            found = os.stat(self._data)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _open(self, max_bytes: int, ttl_s: int, now_us: int) -> tuple[Database, Done]:
        alone, data = _locked(self._users), self._path / DATA
        boot, noted = self._path / "boot", BOOT_ID.read_text()
        first_since_start = not boot.exists() or boot.read_text() != noted
        if alone and first_since_start and boot.exists() and data.exists():
            self._rebuild(SNAPSHOTS, in_part=True)  # the power may have failed
        if not data.exists():
            (self._path / LOCK).unlink(missing_ok=True)  # its readers are of a file that was deleted
        with (self._path / LOCK).open("ab") as table:  # a hole in it would be filled when it is too late to fail
            os.posix_fallocate(table.fileno(), 0, LOCK_BYTES)
        try:
            database = Database(self._path, max_bytes=max_bytes, ttl_s=ttl_s)
        except Shortened:
            self._rebuild(ALL, in_part=True)  # others who have it open will notice, or die of what is missing
            database = Database(self._path, max_bytes=max_bytes, ttl_s=ttl_s)
        trimmed = database.trim(now_us)
        if alone and data.stat().st_size > max_bytes:
            database.close()
            self._rebuild(ALL, in_part=False)
            database = Database(self._path, max_bytes=max_bytes, ttl_s=ttl_s)
        if first_since_start:  # else nothing need be written, for the disk may be full
            boot.write_text(noted)
        return database, trimmed

    def _rebuild(self, kept: str, *, in_part: bool) -> None:
        """Replace the file by one with what is to be `kept` of it, if that can be read whole, or `in_part`.

        Raises: OSError where there is no room.
        """
        file, made = self._path / DATA, self._path / "rebuilt"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        command = [sys.executable, "-P", "-m", "service.state.stores.rebuild", str(self._path), str(made), kept]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        whole, progress = done.returncode == 0, (done.stdout.splitlines() or ["none kept"])[-1]
        if done.returncode == FOREIGN:  # which is for who opens it to tell
            return
        if done.returncode == FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(made))
        if not whole:
            log.error("%s is damaged; of the states in it %s: %s", file, progress, done.stderr[-500:])
        if whole or in_part:
            if (made / DATA).exists():
                os.replace(made / DATA, file)
            else:
                os.replace(file, f"{file}.damaged")
            (self._path / LOCK).unlink(missing_ok=True)
            log.warning("%s was written anew; of the states in it %s", file, progress)
        shutil.rmtree(made, ignore_errors=True)

    def _wait_for_turn(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not _locked(self._turn):
            if time.monotonic() > deadline:
                raise OSError(f"another process has kept turn.lock for {patience_s:.0f} s")
            time.sleep(POLL_S)

    def _lock_file(self, name: str) -> int:
        self._locks.append(os.open(self._path / name, os.O_RDWR | os.O_CREAT, 0o600))
        return self._locks[-1]

    def _unlock(self) -> None:
        while self._locks:
            os.close(self._locks.pop())


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_remote(folder: Path) -> None:
    """Raises: OSError on a file system of several machines, whose memory LMDB cannot share."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = {fields[4].encode().decode("unicode_escape"): fields[fields.index("-") + 1] for fields in mounts}
    place = folder.resolve()
    kind = next(kinds[str(parent)] for parent in (place, *place.parents) if str(parent) in kinds)
    if kind in REMOTE:
        raise OSError(f"it would be on a file system of several machines, {kind}; it must be on one of this machine")


def _explain(file: Path, failure: Problem) -> str:
    if isinstance(failure, ForeignFormat | lmdb.InvalidError | lmdb.VersionMismatchError):
        wrong = "it is of another format or version, or damaged; move it away, and what it holds with it, or"
    elif isinstance(failure, Shortened | lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.BadTxnError):
        wrong = "it is damaged; put back a copy, or move it away, and what it holds with it, or"
    else:
        wrong = f"{failure}; let this user read and write it, on a disk with room, or"
    return f"the embedded store of held states cannot be opened: {file}: {wrong} {ELSEWHERE}"
