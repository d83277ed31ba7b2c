"""docs/client.md is about the whole client."""

from __future__ import annotations

from conftest import ROOT

import baton_client


def test_the_page_names_every_public_class() -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    assert not [name for name in baton_client.__all__ if name not in page]
