"""What is worth a table of a captioner: what it writes of images beside what people wrote.

It asks a running service, as every figure does; files it leaves to `training.report`.
Invariant: examples stand at even places of their part, never chosen by how well they are described.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.contract.manifest import Manifest
from training.report.pages import Picture, Table
from training.tasks.caption.evaluation import write_captions
from training.tasks.caption.text import Image

EXAMPLES = 10


def report_captions(
    url: str, manifest: Manifest, images: Sequence[Image], part: str
) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a model that writes captions from vectors; `part` names the data."""
    chosen = images[:: max(len(images) // EXAMPLES, 1)][:EXAMPLES]
    written = write_captions(url, manifest.name, chosen)
    rows = tuple((image.name, text, " / ".join(image.captions)) for image, text in zip(chosen, written, strict=True))
    caption = f"Images at even places: {part}."
    return (), (Table(caption=caption, header=("image", "caption", "people's captions"), rows=rows),)
