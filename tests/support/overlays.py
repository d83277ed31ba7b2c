"""The overlays of deploy/kubernetes with the files that docs/kubernetes.md tells their user to write."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from conftest import ROOT
from keyring import Keyring
from manifests import FOLDER, KUSTOMIZATION

from service.state.keys import new_key

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
KEYS = Keyring("shop")
OVERLAYS = ("example", "volume", "bucket")


def copy_overlays(folder: Path) -> Path:
    """Copy deploy/kubernetes, give the example its keys, and make two more, with models on a volume and in a bucket."""
    overlays = shutil.copytree(FOLDER, folder / "kubernetes") / "overlays"
    write_keys(overlays / "example", new_key())
    for overlay, component in (("volume", "models-pvc"), ("bucket", "models-bucket")):
        kustomization = shutil.copytree(overlays / "example", overlays / overlay) / KUSTOMIZATION
        more = kustomization.read_text().replace("components:\n", f"components:\n  - ../../components/{component}\n")
        kustomization.write_text(more)
    with (overlays / "bucket" / KUSTOMIZATION).open("a") as file:
        file.write("  - name: baton-bucket\n    envs: [bucket.env]\n")
    bucket_env = re.findall(r"^(BUCKET=.*?)^EOF$", PAGE, re.MULTILINE | re.DOTALL)[0]
    (overlays / "bucket" / "bucket.env").write_text(bucket_env)
    return overlays


def write_keys(overlay: Path, *ring: str) -> None:
    """Write the keys of an overlay: a ring of token keys, and that of a tenant."""
    keys = ", ".join(f'"{key}"' for key in ring)
    (overlay / "keys.env").write_text(f"BATON_TOKEN_KEYS=[{keys}]\nBATON_API_KEYS={KEYS.setting}\n")
