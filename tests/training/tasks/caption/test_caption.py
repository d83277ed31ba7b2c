"""The captioner: its words, its batches, its network, its figures, and the recipe from vectors to a served model, made
tiny."""

from __future__ import annotations

import copy
import gzip
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from service.contract.files import read_manifest
from training.catalogue import find_recipe
from training.datasets import Found
from training.evaluate import ask, serving
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.tasks.caption import evaluation, report
from training.tasks.caption import recipe as caption
from training.tasks.caption.evaluation import LONGEST, figures, nearest_captions
from training.tasks.caption.module import CaptionModule, Settings
from training.tasks.caption.network import Captioner, Viewer, Writer
from training.tasks.caption.recipe import read_images
from training.tasks.caption.text import END, END_ID, START, UNKNOWN, Captions, Image, learn_words
from training.tasks.writer import NO_TARGET

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")

FEATURES = 3
IMAGES = [
    Image("dog.jpg", torch.tensor([2.0, 0.0, 0.0]), ("A dog runs .", "The dog runs, fast !")),
    Image("girl.jpg", torch.tensor([0.0, 2.0, 0.0]), ("A girl's red hat .", "A girl runs .")),
    Image("two.jpg", torch.tensor([0.0, 0.0, 2.0]), ("Two dogs in the snow", "Two dogs play in the snow .")),
]
TEXTS = [text for image in IMAGES for text in image.captions]


def test_words_are_frequent_ones_without_case_and_punctuation() -> None:
    """What is written decodes to readable text; a word that train holds too seldom is unknown."""
    tokenizer = learn_words(TEXTS, least=2)
    encoding = tokenizer.encode("The DOGS, in snow-white: a girls' dog!")
    assert encoding.tokens == ["the", "dogs", "in", UNKNOWN, "a", UNKNOWN, "dog"]
    assert tokenizer.decode([*encoding.ids, END_ID]) == "the dogs in a dog"
    assert (tokenizer.id_to_token(END_ID), tokenizer.id_to_token(1)) == (END, "a")


def test_a_batch_holds_captions_of_one_length_and_what_follows_each_word() -> None:
    """Every caption is in one batch beside its own image; what is unknown is read, and never a target."""
    tokenizer = learn_words(TEXTS, least=2)
    start, unknown = tokenizer.token_to_id(START), tokenizer.token_to_id(UNKNOWN)
    captions = Captions.of(IMAGES, tokenizer)
    batches = captions.batches(2, torch.Generator().manual_seed(0))
    rows = [row for batch in batches for row in zip(*batch, strict=True)]
    assert len(rows) == len(TEXTS)
    assert max(len(ids) for _, ids, _ in batches) == 2
    found = set()
    for vector, ids, following in rows:
        (image,) = [image for image in IMAGES if torch.equal(image.vector, vector)]
        assert (int(ids[0]), int(following[-1])) == (start, END_ID)
        read = ids[1:]
        assert torch.equal(following[:-1], read.masked_fill(read == unknown, NO_TARGET))
        found.add((image.name, tokenizer.decode(ids.tolist())))
    assert found == {
        (image.name, tokenizer.decode(tokenizer.encode(text).ids)) for image in IMAGES for text in image.captions
    }


def tiny() -> Captioner:
    torch.manual_seed(0)
    return Captioner(Viewer(FEATURES, 6, 5, dropout=0.1), Writer(11, 4, 6, 5, dropout=0.1)).eval()


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 4]])
def test_chunks_of_a_caption_equal_the_whole(chunks: list[int]) -> None:
    network = tiny()
    vectors, ids = torch.randn(2, FEATURES), torch.randint(13, (2, 9))
    *states, image = network.viewer(vectors.unsqueeze(1), torch.ones(2))
    whole, *last = network.writer(ids, torch.tensor([9, 9]), *states, image)
    torch.testing.assert_close(network(vectors, ids).softmax(2), whole)
    assert whole.shape == (2, 9, 11)
    for chunk, probabilities in zip(ids.split(chunks, 1), whole.split(chunks, 1), strict=True):
        found, *states = network.writer(chunk, torch.full((2,), chunk.shape[1]), *states, image)
        torch.testing.assert_close(found, probabilities)
    torch.testing.assert_close(states, last)


def test_images_of_a_part_come_with_their_vectors_and_captions(tmp_path: Path) -> None:
    names = ["b.jpg", "a.jpg.1", "c.jpg"]
    vectors = np.arange(9, dtype=np.float16).reshape(3, 3)
    np.savez(tmp_path / "vectors.npz", names=np.array(names), vectors=vectors)
    lines = ["a.jpg.1#0\tone\n", "b.jpg#0\tA dog .\n", "b.jpg#1\tDogs\n", "d.jpg#0\tof no vector\n"]
    (tmp_path / "captions").write_bytes(gzip.compress("".join(lines).encode()))
    (tmp_path / "names").write_text("b.jpg\na.jpg.1\n")
    first, second = read_images(tmp_path / "vectors.npz", tmp_path / "captions", tmp_path / "names")
    assert (first.name, first.captions, first.vector.tolist()) == ("b.jpg", ("A dog .", "Dogs"), [0, 1, 2])
    assert (second.name, second.captions, second.vector.dtype) == ("a.jpg.1", ("one",), torch.float32)


def test_figures_are_over_all_captions_beside_those_of_the_nearest_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caption that is any of people's, but for case and punctuation, is perfect."""
    asked = [image.captions[-1].lower().strip(" .!") for image in IMAGES]

    def answer(url, path, field, items, **options):
        assert (path, field, options["model"], options["beams"]) == ("/v1/generate", "items", "caption", 4)
        assert [item["condition"]["vector"] for item in items] == [image.vector.tolist() for image in IMAGES]
        return [{"choices": [{"text": text}]} for text in asked]

    monkeypatch.setattr(evaluation, "ask", answer)
    train = [IMAGES[0], replace(IMAGES[1], captions=("Nothing of it", "at all"))]
    one, *_, four = figures("caption", "test", train, IMAGES, "http://service")
    assert (one.name, four.name) == ("test_bleu_1", "test_bleu_4")
    assert (one.value, four.value) == pytest.approx((100, 100))
    assert one.floor is not None
    assert 0 < one.floor < 50


def test_the_nearest_image_lends_its_first_caption() -> None:
    near = replace(IMAGES[1], vector=torch.tensor([0.5, 1.5, 0.0]))
    assert nearest_captions(IMAGES, [near]) == [IMAGES[1].captions[0]]


def test_a_report_shows_images_at_even_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write_captions", lambda url, model, images: [f"of {image.name}" for image in images])
    images = [replace(IMAGES[0], name=str(place)) for place in range(30)]
    pictures, (table,) = report.report_captions("http://service", SimpleNamespace(name="caption"), images, "test")
    assert not pictures
    assert [row[:2] for row in table.rows] == [(str(place), f"of {place}") for place in range(0, 30, 3)]
    assert table.rows[0][2] == "A dog runs . / The dog runs, fast !"


def test_the_recipe_publishes_what_the_service_writes_captions_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train on three images, pass parity, publish both graphs, and write through the service what PyTorch writes."""

    def prepare(settings: Settings, seed: int) -> CaptionModule:
        small = {"least": 2, "width": 16, "image": 16, "hidden": 24, "rows": 4, "learning_rate": 1e-2}
        small |= {"averaging": 0.0, "dropout": 0.0, "smoothing": 0.0}
        return CaptionModule(settings.model_copy(update=small), IMAGES * 20, IMAGES, seed)

    recipe = find_recipe("caption")
    run = recipe.run.model_copy(update={"epochs": 5, "precision": "32-true"})
    recipe = replace(recipe, kind=replace(recipe.kind, prepare=prepare), run=run)
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    assert isinstance(module, CaptionModule)
    monkeypatch.setattr(caption, "find", lambda file: Found(file, tmp_path / file, "0" * 64))
    monkeypatch.setattr(caption, "read_images", lambda *files: IMAGES)
    directory = publish(recipe.release(module), tmp_path / "models", command="a test", seed=1)
    manifest = read_manifest(directory)
    assert manifest.start is not None
    assert manifest.start.states == {"h": "h_start", "c": "c_start", "image": "image_start"}
    assert [state.output for state in manifest.states] == ["h_out", "c_out", None]
    assert manifest.provenance is not None
    assert manifest.provenance.metrics[0].value > 70
    with serving(tmp_path / "models") as url:
        items = [{"condition": {"vector": image.vector.tolist()}} for image in IMAGES]
        results = ask(url, "/v1/generate", "items", items, model="caption", temperature=0, max_steps=LONGEST)
    written = [result["choices"][0]["text"] for result in results]
    assert written == [greedy(module, image) for image in IMAGES]
    assert len({*written}) == len(IMAGES)


@torch.no_grad()
def greedy(module: CaptionModule, image: Image) -> str:
    """Return what PyTorch writes with the weights as published, always the likeliest word."""
    network = copy.deepcopy(module.network).half().float().eval()
    ids = [module.tokenizer.token_to_id(START)]
    while ids[-1] != END_ID and len(ids) <= LONGEST:
        scores = network(image.vector.unsqueeze(0), torch.tensor([ids]))
        ids.append(int(scores[0, -1].argmax()))
    return module.tokenizer.decode(ids)
