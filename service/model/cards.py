"""What stands in a version's directory for people: its card, and the pictures of its report.

It knows directories, not what cards and pictures show. Invariant: only regular files of the version's own directory are
given out, whatever name is asked for and whatever links lie in it.
"""

from __future__ import annotations

from pathlib import Path

from service.contract.files import is_own

CARD_FILE = "card.md"
MOST_CARD_BYTES = 256 * 1024  # that are given out: a card is for people to read
REPORT_FOLDER = "report"
PICTURE_TYPES = {".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".svg": "image/svg+xml"}


def find_card(directory: Path) -> Path | None:
    """Return the card of the version in `directory`, if it has one."""
    card = directory / CARD_FILE
    return card if is_own(card, directory) else None


def find_pictures(directory: Path) -> dict[str, Path]:
    """Return the pictures of the version in `directory` by their names, in order; none where there is no report."""
    report = directory / REPORT_FOLDER
    files = sorted(report.iterdir()) if report.is_dir() else []
    return {file.name: file for file in files if file.suffix in PICTURE_TYPES and is_own(file, directory)}
