"""Users' taggers, denoisers, audio classifiers and language models through `export_module`, and served."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import users_modules as users
from echo import no_server
from torch import Tensor

from service.contract.files import read_manifest
from service.contract.parts import Characters, Feedback, Signal
from training import export_module
from training.evaluate import ask, serving
from training.export.foreign import ModuleError
from training.export.parity import BOUND
from training.publish import model_directory
from training.publish.model_directory import PublishError
from training.recipe import TextReader
from training.tasks.classifier.text import UNKNOWN, train_review_words

TEXTS = ["good", "a good good film", "bad", "a very bad film , not good"]
TOKENIZER = train_review_words(TEXTS, users.WORDS)
READER = TextReader(TOKENIZER.to_str(), 16, UNKNOWN)
TAGS = ("DET", "NOUN", "ADJ", "PUNCT")
SIGNAL = Signal(sample_rate=8000)
WRITING = Feedback(kind="categorical", output="next", form="logits", start=0)
ROWS, TIME = 4, 7
LENGTHS = torch.tensor([7, 5, 3, 2])


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ids(*shape: int) -> Tensor:
    return torch.randint(0, users.WORDS, shape, generator=torch.Generator().manual_seed(1))


def told() -> dict[str, dict[str, Any]]:
    """What `export_module` is told, by the model's name."""
    states, lengths = (torch.zeros(1, ROWS, 6), torch.zeros(1, ROWS, 6)), {"lengths": "lengths"}
    spelling = TextReader(READER.tokenizer_json, 16, UNKNOWN, characters=Characters(alphabet="abcdefgh", width=3))
    return {
        "labeller": {
            **{"module": users.Labeller(), "example": (ids(ROWS, TIME), LENGTHS), "text": READER, "task": "tag"},
            **{**lengths, "outputs": {"tags": TAGS}},
        },
        "speller": {
            **{"module": users.Speller(), "example": (ids(ROWS, TIME, 4) % 10, torch.zeros(1, ROWS, 6))},
            **{"states": {"h": 1}, "outputs": {"tags": TAGS}, "text": spelling, "task": "tag"},
        },
        "denoiser": {
            **{"module": users.Denoiser(), "example": (values(ROWS, TIME), LENGTHS), "signal": SIGNAL},
            **{**lengths, "task": "transform"},
        },
        "listener": {
            **{"module": users.Listener(), "example": (values(ROWS, TIME, 8), LENGTHS), "signal": SIGNAL},
            **{**lengths, "outputs": {"said": ("yes", "no")}, "task": "classify"},
        },
        "writer": {
            **{"module": users.Writer(), "example": (ids(ROWS, TIME), states), "states": {"state": 1}},
            **{"outputs": {"next": ()}, "text": READER, "feedback": WRITING},
        },
    }


@dataclass(frozen=True)
class Exported:
    """The modules, and where they are served."""

    url: str
    models: Path
    modules: dict[str, torch.nn.Module]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    models = tmp_path_factory.mktemp("exported") / "models"
    torch.manual_seed(0)
    every = told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_directory, "serving", no_server)
        for name, given in every.items():
            export_module(**given, name=name, models_dir=models)
    with serving(models) as url:
        yield Exported(url, models, {name: given["module"].eval() for name, given in every.items()})


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("labeller", ("tag",)),
        ("speller", ("tag", "step")),
        ("denoiser", ("transform",)),
        ("listener", ("classify",)),
        ("writer", ("step", "generate")),
    ],
)
def test_a_module_is_published_for_its_task_with_all_that_was_said(
    exported: Exported, name: str, answers: tuple[str, ...]
) -> None:
    """A model with a task streams where it has states."""
    manifest, given = read_manifest(exported.models / name / "1"), told()[name]
    assert manifest.answers == answers
    assert (manifest.signal, manifest.feedback) == (given.get("signal"), given.get("feedback"))
    assert (manifest.text and manifest.text.characters) == (given.get("text") and given["text"].characters)


@pytest.mark.parametrize("name", ["labeller", "speller"])
def test_served_tags_of_a_user_s_module_equal_pytorch(exported: Exported, name: str) -> None:
    results = ask(exported.url, "/v1/tag", "inputs", TEXTS, model=name, scores="all")
    for text, result in zip(TEXTS, results, strict=True):
        encoded = TOKENIZER.encode(text, add_special_tokens=False)
        if name == "labeller":
            (due,) = exported.modules[name](torch.tensor([encoded.ids]), torch.tensor([len(encoded.ids)]))
        else:
            steps = [[token, *spelled(text[slice(*place)])] for token, place in zip(*both(encoded), strict=True)]
            (due,) = exported.modules[name](torch.tensor([steps]), torch.zeros(1, 1, 6))[0]
        served = [[token["scores"][tag] for tag in TAGS] for token in result["tokens"]]
        np.testing.assert_allclose(served, due.detach(), atol=BOUND, rtol=0)


def both(encoded: Any) -> tuple[list[int], list[tuple[int, int]]]:
    return encoded.ids, encoded.offsets


def spelled(word: str) -> list[int]:
    """The ids of a word's first and last two characters."""
    letters = word if len(word) <= 3 else word[:1] + word[-2:]
    known = [2 + place if (place := string.ascii_lowercase[:8].find(letter)) >= 0 else 1 for letter in letters]
    return known + [0] * (3 - len(known))


def test_a_served_signal_without_its_noise_equals_pytorch(exported: Exported) -> None:
    items = [{"values": values(length).tolist()} for length in (9, 1, 6)]
    for item, result in zip(items, ask(exported.url, "/v1/transform", "items", items, model="denoiser"), strict=True):
        row = torch.tensor([item["values"]])
        due = exported.modules["denoiser"](row, torch.tensor([row.shape[1]]))
        assert result["outputs"] == pytest.approx(due[0].tolist(), abs=BOUND)


def test_a_served_label_of_a_signal_equals_pytorch(exported: Exported) -> None:
    """Samples become frames, the last one filled with zeros."""
    samples = values(20)
    (result,) = ask(
        exported.url, "/v1/classify", "items", [{"values": samples.tolist()}], model="listener", scores="all"
    )
    frames = torch.cat([samples, torch.zeros(4)]).view(1, 3, 8)
    due = exported.modules["listener"](frames, torch.tensor([3]))[0].tolist()
    assert [result["scores"][label] for label in ("yes", "no")] == pytest.approx(due, abs=BOUND)


def test_feedback_without_states_and_a_bidirectional_stream_are_refused(tmp_path: Path) -> None:
    given = told()
    whole = {**given["labeller"], "task": None, "feedback": WRITING.model_copy(update={"output": "tags"})}
    with pytest.raises(PublishError, match="contract: feedback: must be left out; task 'sentiment' has none"):
        export_module(**whole, name="whole", models_dir=tmp_path)
    both_ways = users.Stream(bidirectional=True)
    zeros = torch.zeros(4, ROWS, 6)
    with pytest.raises(ModuleError, match="bidirectional, and with states the model is a stream"):
        export_module(
            both_ways,
            (values(ROWS, TIME, users.FEATURES), (zeros, zeros)),
            states={"state": 1},
            task="transform",
            name="both-ways",
            models_dir=tmp_path,
        )
