"""A model directory is data: whatever its files hold, it is refused with what and where, or fails alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny
import tiny_hostile
from here import Clock, load_here, serve_here
from onnx import ModelProto
from tokenizers import Regex
from tokenizers.normalizers import Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Split

from service.engine.trial import Trial
from service.engine.versions import try_versions
from service.errors import ManifestError
from service.settings import Settings

Change = Callable[[dict[str, Any]], object]
LITTLE = 512 * 2**20  # bytes; the sound models need a quarter of it
WEIGHTS_INSIDE = r"model\.onnx: file: .*export it with its weights inside"
NOT_OWN = "is no file of its directory"
SPLIT = '{"type": "Whitespace"}'
TOO_LARGE = "loading and trying .* takes more"


def refuse(directory: Path, says: str, **settings: object) -> None:
    """See that a version fails its trial, for a reason that names what of its directory is at fault."""
    own = Settings(models_dir=directory.parent.parent, trial_bytes=LITTLE, **settings)  # type: ignore[arg-type]
    with pytest.raises(ManifestError, match=rf"^{directory}/(manifest\.json|model\.onnx): .*{says}"):
        list(try_versions([directory], own, Trial(own)))


@pytest.mark.parametrize("location", ["{}/weights", "../weights", "weights", "linked"])
@pytest.mark.parametrize("move", [tiny_hostile.move_weights_out, tiny_hostile.move_constant_out])
def test_weights_outside_of_the_graph_are_not_read_wherever_they_lie(
    move: Callable[[ModelProto, str], None], location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the model's own directory, or of that in which the service works, as little as of another."""
    directory = tiny.stepper(tmp_path / "models")
    weights = onnx.load(directory / "model.onnx").graph.initializer[0].raw_data
    for folder in (tmp_path, directory, directory.parent):
        (folder / "weights").write_bytes(weights)
    (directory / "linked").symlink_to(tmp_path / "weights")
    tiny_hostile.rewrite_graph(directory, lambda model: move(model, location.format(tmp_path)))
    for working in (tmp_path, directory):
        monkeypatch.chdir(working)
        with pytest.raises(ManifestError, match=WEIGHTS_INSIDE):
            load_here(tmp_path / "models")


def test_weights_at_an_address_of_the_process_are_not_read(tmp_path: Path) -> None:
    directory = tiny_hostile.rewrite_graph(tiny.stepper(tmp_path), lambda model: tiny_hostile.read_memory(model, ""))
    refuse(directory, "ONNX Runtime cannot load it")


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "tokenizer.json"])
def test_a_file_that_is_a_link_out_of_its_directory_is_refused(name: str, tmp_path: Path) -> None:
    directory = tiny.sentiment(tmp_path / "models")
    (directory / name).rename(tmp_path / name)
    (directory / name).symlink_to(tmp_path / name)
    refuse(directory, NOT_OWN)


def test_links_within_a_version_and_versions_that_are_links_are_served(tmp_path: Path) -> None:
    """A volume of Kubernetes has the first; the second, whoever keeps the models directory has put there."""
    elsewhere = tiny.stepper(tmp_path / "elsewhere")
    (elsewhere / "model.onnx").rename(elsewhere / "data")
    (elsewhere / "model.onnx").symlink_to("data")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "stepper").symlink_to(elsewhere.parent)
    (engine,) = load_here(tmp_path / "models")
    assert engine.manifest.name == "stepper"


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    for name, says in (("manifest.json", NOT_OWN), ("model.onnx", "is missing from its directory")):
        directory = tiny.stepper(tmp_path / name)
        (directory / name).unlink()
        os.mkfifo(directory / name)
        refuse(directory, says)


def test_files_that_are_larger_than_memory_are_refused(tmp_path: Path) -> None:
    for name, says in (("manifest.json", "16777216 are the most"), ("model.onnx", TOO_LARGE)):
        directory = tiny.stepper(tmp_path / name)
        os.truncate(directory / name, 2**40)  # it takes no room on the disk
        refuse(directory, says)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (tiny_hostile.call_stranger, r"stranger:Run\(-1\) is not a registered function/op"),
        (tiny_hostile.call_itself, "ONNX Runtime cannot load it"),
        (tiny_hostile.call_doubling, f"(is not loaded and tried within 5 s|{TOO_LARGE})"),
        (tiny_hostile.lie_about_weights, "ONNX Runtime cannot load it"),
    ],
)
def test_a_graph_that_calls_what_is_not_there_or_is_larger_than_it_looks_is_refused(
    call: Callable[[ModelProto], None], says: str, tmp_path: Path
) -> None:
    directory = tiny_hostile.rewrite_graph(tiny.stepper(tmp_path), call)
    refuse(directory, says, trial_s=5)


@pytest.mark.parametrize(
    ("write", "change", "says"),
    [
        (
            tiny.stepper,
            lambda m: m["states"][0].update(shape=[1, "batch", 2**31]),
            r"states\[0\]\.shape.*less than 2147483648",
        ),
        (
            tiny.stepper,
            lambda m: m["inputs"][0].update(shape=["batch", "time", 10**30]),
            r"inputs\[0\]\.shape.*less than",
        ),
        (tiny.stepper, lambda m: m["inputs"][0].update(shape=["batch", "time", 2**31 - 1]), TOO_LARGE),
        (tiny.stepper, lambda m: m["states"][0].update(shape=[1, "batch", 2**31 - 1]), "states.*: h_out is declared"),
        (
            tiny.stepper,
            lambda m: m["outputs"][0].update(shape=["batch", "time", 2**31 - 1]),
            r"outputs\[0\]: y is declared",
        ),
        (
            tiny.stepper,
            lambda m: m["inputs"][0].update(shape=["batch", "time", *[1] * 100]),
            r"inputs\[0\]: x is declared",
        ),
        (tiny.forecast, lambda m: m["forecast"].update(min_history=2**31 - 1, max_history=2**31 - 1), TOO_LARGE),
        (tiny.sentiment, lambda m: m["text"].update(max_length=2**31 - 1), TOO_LARGE),
    ],
)
def test_a_manifest_that_lies_about_sizes_is_refused(
    write: Callable[[Path], Path], change: Change, says: str, tmp_path: Path
) -> None:
    """The graph leaves them open."""
    directory = tiny_hostile.rewrite_graph(write(tmp_path), tiny_hostile.free_axes)
    refuse(tiny_hostile.rewrite_manifest(directory, change), says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "recursion limit exceeded"),
        ('{"schema_version": ' + "9" * 5000 + "}", "number out of range"),
    ],
)
def test_a_manifest_of_deep_or_endless_json_is_refused(text: str, says: str, tmp_path: Path) -> None:
    directory = tiny.stepper(tmp_path)
    (directory / "manifest.json").write_text(text)
    refuse(directory, says)


def nested(text: str) -> str:
    """Put the tokenizer's way to split texts into 100,000 lists of one."""
    flat, deep = json.dumps(json.loads(text)), 100_000
    return flat.replace(SPLIT, '{"type": "Sequence", "pretokenizers": [' * deep + SPLIT + "]}" * deep)


def crowded(text: str) -> str:
    """Add three million words."""
    return text.replace('"good":', "".join(f'"word{place}": {place},' for place in range(9, 3_000_000)) + '"good":')


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (nested, "text.tokenizer: the tokenizers library cannot load it: .*recursion limit exceeded"),
        (crowded, TOO_LARGE),
    ],
)
def test_a_tokenizer_that_explodes_as_it_is_loaded_is_refused(
    change: Callable[[str], str], says: str, tmp_path: Path
) -> None:
    refuse(tiny_hostile.rewrite_tokenizer(tiny.sentiment(tmp_path), change), says)


def test_a_tokenizer_whose_texts_grow_without_bound_is_refused(tmp_path: Path) -> None:
    """Each a becomes 10^16 of them."""
    growing = Normalizers([Replace("a", "a" * 100)] * 8)
    refuse(tiny_hostile.set_tokenizer(tiny.sentiment(tmp_path), normalizer=growing), TOO_LARGE)


@pytest.mark.anyio
async def test_a_text_on_which_a_regular_expression_runs_away_fails_alone(tmp_path: Path) -> None:
    """The library gives up on it with a panic, which is no Exception and would end the model's thread."""
    tiny_hostile.set_tokenizer(tiny.sentiment(tmp_path), pre_tokenizer=Split(Regex("(a+)+$| "), "isolated"))
    settings = Settings(models_dir=tmp_path, state_dir=tmp_path / "state", store="memory")
    async with serve_here(settings, Clock()) as (client, _):
        for _ in range(2):
            answer = await client.post("/v1/sentiment", json={"inputs": ["good film", "a" * 40 + "b", "bad film"]})
            first, second, third = answer.json()["results"]
            assert {first["label"], third["label"]} <= set(tiny.LABELS)
            assert second["error"]["code"] == "model_failed"
