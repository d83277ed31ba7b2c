"""The card: what a person should know of a published model, written from its release and manifest.

It knows no task. Invariant: every figure on the card is one of the manifest's, or of the parity suite's run.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.contract.manifest import Manifest
from service.contract.members import RECENT_IDS
from service.contract.parts import Mixture
from service.contract.provenance import Metric, Network, Provenance, Variant
from training.export.parity import BOUND, Parity
from training.recipe import Release

VARIANTS: dict[Variant, str] = {
    "relu": "ReLU",
    "peepholes": "peepholes",
    "reset_before": "the reset gate before the recurrent matrix",
    "residual": "residual connections",
    "learned_start": "a learned initial state",
}


def write_card(release: Release, manifest: Manifest, parity: Parity) -> str:
    """Return the card as Markdown."""
    assert manifest.provenance is not None
    sections = [
        f"# {manifest.name} {manifest.version}",
        release.description,
        f"Network: {networks_sentence(release.networks)}; ONNX opset "
        f"{manifest.provenance.opset}, each layer one node. {_streaming(manifest)}",
        "## Figures\n\nMeasured through the service, over HTTP, on the published files.\n\n" + figures_table(manifest),
        "## Data\n\n" + _data(manifest),
        "## Parity\n\n" + _parity(parity),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in release.limits),
        f"## Reproduce\n\n```\n{manifest.provenance.command}\n```\n\n" + _made(manifest),
        f"Licence: {manifest.provenance.licence}.",
    ]
    return "\n\n".join(sections) + "\n"


def networks_sentence(networks: Sequence[Network]) -> str:
    """Return the recurrent stacks in words."""
    return " beside ".join(map(_network_words, networks)) or "none of PyTorch's recurrent layers"


def _network_words(network: Network) -> str:
    directions = "both directions" if network.bidirectional else "one direction"
    layers = f"{network.layers} {network.cell.upper()} layer" + ("s" if network.layers > 1 else "")
    variants = " and ".join(", ".join(VARIANTS[name] for name in network.variants).rsplit(", ", 1))
    return f"{layers} of {network.hidden} units, {directions}" + (variants and f", with {variants}")


QUANTIZED_LIMITS = {
    "int8": (
        "Activations are scaled to eight bits over all the rows that share a run, so an answer moves with the rows "
        "beside it, here by up to {movement:.2g}. The float32 model's does not.",
        "The speed-ups are medians over paired runs of one thread's time on the processor it was published on; 1.8 is "
        "the aim. Where the run of a row is short, its fixed costs, which int8 leaves as they are, keep it below. "
        "Processors without eight-bit dot products (VNNI) gain less.",
        "Weights have seven bits, whose sums are exact on every x86-64 processor. A figure that ends in `_on_avx2` was "
        "measured on an emulated processor without VNNI and AVX-512; without such a figure, none was measured there.",
    ),
    "float16": (
        "It is for GPUs. A CPU computes it in float32 with casts around, slower than the float32 model. Its speed on a "
        "GPU was not measured, and the figures above are a CPU's: a GPU rounds after each step as well.",
    ),
}


def write_quantized_card(release: Release, manifest: Manifest, original: Manifest) -> str:
    """Return the card of a model in int8 or float16, made from the float32 model `original`, as Markdown."""
    assert manifest.provenance is not None
    figures = {metric.name: metric.value for metric in manifest.provenance.metrics}
    limits = [
        limit.format(movement=figures["max_abs_movement_in_batches"]) for limit in QUANTIZED_LIMITS[manifest.arithmetic]
    ]
    sections = [
        f"# {manifest.name} {manifest.version}",
        manifest.description,
        f"The weights are those of {original.name} {original.version} (sha256 `{original.sha256}`), whose card tells "
        f"of the network. {_streaming(manifest)}",
        "## Figures\n\nMeasured on the published file: what the float32 model has too, through the service over HTTP; "
        "the others in ONNX Runtime on rows drawn as for parity.\n\n" + figures_table(manifest),
        "## Data\n\n" + _data(manifest),
        f"## Parity\n\nThat of the float32 graph with PyTorch is {manifest.provenance.parity_max_abs:.2g}; how far "
        "this model is from the float32 graph stands among the figures.",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in (*limits, *release.limits)),
        f"## Reproduce\n\n```\n{manifest.provenance.command}\n```\n\n" + _made(manifest),
        f"Licence: {manifest.provenance.licence}.",
    ]
    return "\n\n".join(sections) + "\n"


def value_and_spread(metric: Metric, provenance: Provenance) -> str:
    """Return the figure, with its smallest and largest over the seeds where there are several."""
    value = f"{metric.value:.4g}"
    if metric.seeds is None or provenance.seeds is None:
        return value
    seeds = ", ".join(map(str, provenance.seeds))
    return f"{value} ({min(metric.seeds):.4g} to {max(metric.seeds):.4g} over seeds {seeds})"


def _streaming(manifest: Manifest) -> str:
    if not manifest.streamable:
        return "It reads whole sequences and does not stream."
    next_step = "point" if isinstance(manifest.feedback, Mixture) else "id"
    drawn = f", one of them the output of the last step, which the next {next_step} is drawn from"
    drawn = drawn if manifest.feedback else ""
    drawn += f", and one the last {RECENT_IDS} ids" if manifest.recent else ""
    memory = f"; each step of its condition takes {manifest.memory_bytes:,} more" if manifest.memory_bytes else ""
    size = f"{manifest.state_bytes:,} bytes in {len(manifest.carried)} tensors{drawn}"
    return f"It streams: a session's state is {size}{memory}."


def figures_table(manifest: Manifest) -> str:
    """Return every figure beside its floor as a Markdown table."""
    assert manifest.provenance is not None
    if not manifest.provenance.metrics:
        return "None: nothing but parity was measured."
    rows = [
        f"| {metric.name} | {value_and_spread(metric, manifest.provenance)} "
        f"| {'' if metric.floor is None else f'{metric.floor:.4g}'} | {metric.floor_method or ''} |"
        for metric in manifest.provenance.metrics
    ]
    return "\n".join(["| figure | value | floor | floor is |", "|---|---|---|---|", *rows])


def _data(manifest: Manifest) -> str:
    assert manifest.provenance is not None
    lines = [
        f"- {source.name}: {source.part}" + (f" (sha256 `{source.sha256}`)" if source.sha256 else "")
        for source in manifest.provenance.data
    ]
    return "\n".join(lines) or "Unknown here: the weights were made elsewhere."


def _parity(parity: Parity) -> str:
    lines = [
        f"Largest absolute differences on random ragged batches; publishing allows {BOUND:g}.\n",
        f"- PyTorch against ONNX Runtime: {parity.torch_vs_onnx:.2g}",
        f"- ragged batches against single rows: {parity.ragged_vs_single:.2g}",
        f"- junk in the padding: {parity.junk_in_padding:.2g}",
    ]
    if parity.chunks_vs_whole is not None:
        lines.append(f"- chunks with carried state against the whole: {parity.chunks_vs_whole:.2g}")
    return "\n".join(lines)


def _made(manifest: Manifest) -> str:
    assert manifest.provenance is not None
    tools = ", ".join(f"{name} {version}" for name, version in manifest.provenance.tools.items())
    if manifest.provenance.seed is None:
        return f"{manifest.provenance.created.isoformat()}, with {tools}, from weights made elsewhere."
    return (
        f"Seed {manifest.provenance.seed}, {manifest.provenance.created.isoformat()}, with {tools}. Other versions or "
        "processors give other roundings, and so slightly other weights."
    )
