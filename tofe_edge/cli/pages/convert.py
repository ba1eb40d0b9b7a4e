"""The page of ``tofe-edge convert``: what was made and why, its parity with the reference, and its latency here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tofe_edge.cli.pages.charts import percentiles
from tofe_edge.cli.pages.rendering import render_template
from tofe_edge.cli.pages.sections import BlockLatency, block_latency, latency_histogram, layer_noise
from tofe_edge.cli.pages.token_map import heat_legend, method_maps
from tofe_edge.evaluation.golden import GoldenSet
from tofe_edge.evaluation.parity import Parity
from tofe_edge.io.artifact import Manifest
from tofe_edge.runtimes.etdump import TimeShare


@dataclass(frozen=True, kw_only=True)
class ConvertPage:
    """What the page shows; what is not known is left out of it."""

    manifest: Manifest
    golden: GoldenSet | None
    """For the token maps."""
    reason: str
    """Why this checkpoint and these counts."""
    parity: Mapping[str, Parity]
    """By method, the default first."""
    source: str
    """Names the images of the parity check."""
    measured_on: str = ""
    """Where the following were measured, and with how many threads."""
    samples_ms: Sequence[float] = ()
    stages: Sequence[TimeShare] = ()
    operators: Sequence[TimeShare] = ()
    block_ms: Mapping[str, BlockLatency] = field(default_factory=dict)
    """The profile's latency table, by precision."""
    fitted_ms: Mapping[str, BlockLatency] = field(default_factory=dict)
    """The latency model's forecast for every number of tokens, by precision."""
    prefix_tokens: int = 1
    """CLS, and the distillation token if there is one."""


def render(content: ConvertPage) -> str:
    """Return the page; it loads nothing from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the golden vectors do not belong to the manifest.
    """
    manifest = content.manifest
    counts = [manifest.patch_tokens, *manifest.token_counts] if manifest.token_counts else []
    waiver = (manifest.parity or {}).get("waiver")
    return render_template(
        "convert.html",
        page=content,
        manifest=manifest,
        passed=all(parity.passed for parity in content.parity.values()),
        waiver=str(waiver.get("text")) if isinstance(waiver, dict) else "",
        side=manifest.preprocessing.image_size,
        p50_ms=percentiles(content.samples_ms)[50] if content.samples_ms else None,
        histogram=latency_histogram(content.samples_ms),
        block_latency=block_latency(content.block_ms, content.fitted_ms, [content.prefix_tokens + n for n in counts]),
        maps=method_maps(manifest, content.golden, list(manifest.methods)),
        heat_legend=heat_legend(len(manifest.stage_blocks)),
        layer_noise=layer_noise(manifest),
    )
