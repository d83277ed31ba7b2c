"""The locks of what the image installs, read: deploy/locks/*.txt."""

from __future__ import annotations

from conftest import ROOT
from packaging.requirements import Requirement

LOCKS = ROOT / "deploy" / "locks"


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """Return the entries of a lock: what is installed, and the hashes of its files."""
    entries = (LOCKS / f"{name}.txt").read_text().replace("\\\n", "").splitlines()
    parts = [entry.split(" --hash=") for entry in entries]
    return [(Requirement(entry.strip()), [one.strip() for one in hashes]) for entry, *hashes in parts]


def applies(one: Requirement, extra: str = "") -> bool:
    """Return whether a requirement holds on this machine."""
    return one.marker is None or one.marker.evaluate({"extra": extra})
