"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

UNBOUNDED = 100_000


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print `rows` below their `head`, as wide as the terminal, or as wide as it takes to cut no word or number."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for cells in rows:
        table.add_row(*map(Text, cells))
    console = Console()
    least = Measurement.get(console, console.options.update(max_width=UNBOUNDED), table).minimum
    Console(width=max(console.width, least)).print(table)
