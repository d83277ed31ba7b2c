"""The recipe `spam` on a few messages: the split keeps repetitions together, the figures are those worked by hand."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from service.contract.files import read_manifest
from training import cli, datasets
from training.datasets import PublicFile, find
from training.tasks.classifier import spam

HAM = ["Are you home?", "Call me later", "Ok, see you at 5", "lunch tomorrow?", "I am on the bus"]
SPAM = ["WIN 500 cash now! Call 08712300220", "FREE entry: text WIN to 80086", "Urgent! You won a prize of 900"]


def collection(copies: int) -> spam.Messages:
    """Each message `copies` times, with other marks, case and digits, and two that are no other's copy."""
    texts, labels = ["Only once", "FREE once"], [0, 1]
    for copy in range(copies):
        for label, messages in enumerate((HAM, SPAM)):
            for message in messages:
                texts.append(message.replace("0", str(copy)).upper() + "!" * copy)
                labels.append(label)
    return spam.Messages(texts, labels)


def test_no_message_is_in_two_parts() -> None:
    """Repetitions, with other digits, case and marks too, are in one part, and every message is in one."""
    messages = collection(4)
    parts = messages.split(seed=0)
    letters = {part: {re.sub(r"[^a-z]", "", text.lower()) for text in chosen.texts} for part, chosen in parts.items()}
    assert not letters["train"] & (letters["dev"] | letters["test"])
    assert not letters["dev"] & letters["test"]
    together = [pair for chosen in parts.values() for pair in zip(chosen.texts, chosen.labels, strict=True)]
    assert sorted(together) == sorted(zip(messages.texts, messages.labels, strict=True))


def test_split_depends_on_its_seed_and_keeps_the_shares() -> None:
    """One seed gives one split; either label has a fifth of its messages in test and a tenth in dev."""
    messages = spam.Messages([f"{'abcdefghij'[n % 10]} {chr(97 + n // 10)}" for n in range(200)], [0] * 150 + [1] * 50)
    parts = messages.split(seed=3)
    assert {part: (len(chosen.texts), sum(chosen.labels)) for part, chosen in parts.items()} == {
        "train": (140, 35),
        "dev": (20, 5),
        "test": (40, 10),
    }
    assert messages.split(seed=3) == parts
    assert messages.split(seed=4) != parts


def test_the_real_split_is_clean(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth is held out, and no spam in it is nearly one of train: no two share half of their runs of four words."""
    monkeypatch.setenv(datasets.VARIABLE, str(data_dir))
    messages = spam.Messages.read(find(spam.MESSAGES).path)
    parts = messages.split(spam.SPLIT_SEED)
    assert len(messages.texts) == 5574
    assert len(parts["test"].texts) == pytest.approx(0.2 * 5574, abs=2)
    assert sum(parts["test"].labels) == pytest.approx(0.2 * 747, abs=2)
    held_out, trained = (
        [set(runs_of_four(text)) for text, label in zip(chosen.texts, chosen.labels, strict=True) if label]
        for chosen in (parts["test"], parts["train"])
    )
    assert max(len(one & other) / len(one | other) for one in held_out for other in trained) < 0.5


def runs_of_four(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return [tuple(words[start : start + 4]) for start in range(max(len(words) - 3, 1))]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Win £800 now, call 0800 1", "win £2,000 now! call 0800 55", True),
        ("You have won a prize, call now to claim it", "You have won a prize, call soon to claim it today", False),
        ("You have won a weekend prize, call now", "you have won a weekend prize, CALL", True),
        ("ok", "OK!", True),
        ("?", "!", False),
    ],
)
def test_variants_are_texts_that_share_half_of_their_runs(one: str, other: str, same: bool) -> None:
    """Case, marks and whatever holds a digit do not count."""
    assert len(spam.variants([one, other])) == (1 if same else 2)


def test_figures_are_those_worked_by_hand() -> None:
    """20 spam, of which one scores under half, and 10 ham, of which one scores over half and over the lowest spam."""
    spam_scores = [0.9] * 19 + [0.2]
    ham_scores = [0.95] + [0.1] * 9
    found = spam.figures(torch.tensor(spam_scores + ham_scores), [1] * 20 + [0] * 10)
    # 19 found, 1 missed, 1 wrongly stopped, 9 let through
    assert found["f1"] == pytest.approx(2 * 19 / (2 * 19 + 1 + 1))
    assert found["mcc"] == pytest.approx((19 * 9 - 1 * 1) / (20 * 20 * 10 * 10) ** 0.5)
    assert found["fpr_at_95_recall"] == pytest.approx(0.1)  # 19 of 20 spam score 0.9 or more, as one ham does


def test_naive_bayes_is_that_worked_by_hand() -> None:
    """Two messages of two words each, every count with one added, and a word that neither holds."""
    train = spam.Messages(["win cash", "see you"], [1, 0])
    scores = spam.naive_bayes(train, ["Win", "win see", "see", "unheard"])
    # a word of its own class: (1 + 1) / (2 + 4) against (0 + 1) / (2 + 4), even priors
    assert scores.tolist() == pytest.approx([2 / 3, 1 / 2, 1 / 3, 1 / 2])


def test_spam_recipe_trains_and_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe goes from messages to a served version of the sentiment endpoint, with labels and without polarity."""
    monkeypatch.setenv(datasets.VARIABLE, str(tmp_path))
    names = [f"{one}{other}" for one in "abcdefgh" for other in "aeiou"]  # no text is a variant of another
    many = [
        line for name in names for line in ((0, f"lunch, {name}?"), (0, f"see you {name}"), (1, f"WIN cash {name}"))
    ]
    content = "".join(f"{spam.LABELS[label]}\t{text}\n" for label, text in many)
    (tmp_path / "sms_spam").mkdir()
    (tmp_path / spam.MESSAGES).write_text(content)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    monkeypatch.setitem(datasets.FILES, spam.MESSAGES, PublicFile(sha256, "this test"))
    options = ["--epochs", "1", "--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    result = CliRunner().invoke(cli.app, ["train", "spam", *options])
    assert result.exit_code == 0, result.output

    manifest = read_manifest(tmp_path / "models" / "spam" / "1")
    assert (manifest.task, manifest.streamable) == ("sentiment", False)
    assert manifest.outputs[0].labels == spam.LABELS
    assert manifest.text is not None
    assert manifest.text.polarity is None
    assert manifest.provenance is not None
    assert {metric.name for metric in manifest.provenance.metrics} == {
        f"spam_{part}_{figure}" for part in ("dev", "test") for figure in ("f1", "mcc", "fpr_at_95_recall")
    }
    assert "split with seed 0" in (manifest.provenance.data[0].part or "")
