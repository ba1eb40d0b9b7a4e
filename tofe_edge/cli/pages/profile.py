"""The page of ``tofe-edge profile``: how fast, how evenly, where the time goes, and what the machine did meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tofe_edge.cli.pages.charts import Words, line_chart
from tofe_edge.cli.pages.checks import layer_noise, record
from tofe_edge.cli.pages.html import (
    NOTHING,
    Html,
    facts,
    figure,
    join,
    key_figures,
    name,
    page,
    paragraph,
    plain,
    section,
    text,
    write,
)
from tofe_edge.cli.pages.machine import Reading, machine
from tofe_edge.cli.pages.series import course
from tofe_edge.cli.pages.times import Share, Staircase, breakdown, distribution, on_the_device, percentiles, staircases
from tofe_edge.cli.pages.token_map import kept_tokens
from tofe_edge.evaluation.golden import GoldenSet
from tofe_edge.io.artifact import Manifest


@dataclass(frozen=True, kw_only=True)
class ProfilePage:
    """What the page shows; what is not known is left out of it."""

    manifest: Manifest
    golden: GoldenSet | None
    """For the token map."""
    method: str
    where: str
    """How it was reached: ``this machine``, ``ssh://user@host``."""
    machine: str
    """Processor, architecture, cores, in one line."""
    threads: int
    samples_ms: Sequence[float]
    started_s: Sequence[float] = ()
    """When each run began."""
    cpu_ms: float | None = None
    load_ms: float | None = None
    planned_bytes: int | None = None
    peak_rss_bytes: int | None = None
    readings: Sequence[Reading] = ()
    stages: Sequence[Share] = ()
    operators: Sequence[Share] = ()
    sustained: str = ""
    """The verdict on throttling, in lines."""
    against: str = ""
    """The verdict against the dense model, in lines."""
    block_ms: Mapping[str, Staircase] = field(default_factory=dict)
    """By precision."""
    fitted_ms: Mapping[str, Staircase] = field(default_factory=dict)
    """What the latency model makes of it for every count, by precision."""
    prefix_tokens: int = 1
    """CLS, and the distillation token where there is one."""


def write_page(path: Path, content: ProfilePage) -> None:
    """Write the page atomically. Raises :class:`InputError` where it cannot be written."""
    write(path, render(content))


def render(content: ProfilePage) -> str:
    """The page; nothing in it is loaded from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the manifest has no such method, or the golden vectors are not its.
    """
    manifest, method = content.manifest, content.manifest.method(content.method)
    counts = method.token_counts or []
    tokens = [content.prefix_tokens + count for count in (manifest.patch_tokens, *counts)]
    return page(
        f"Profile of {manifest.artifact}",
        (
            Html(f"<h1>Profile of {name(manifest.artifact)}</h1>"),
            paragraph(join((name(content.where), name(content.machine), _threads(content.threads)), ", ")),
            _key(content),
            paragraph(plain(content.against), "verdict"),
            paragraph(plain(content.sustained), "verdict"),
            section("The model", _model(content)),
            section("Latency", Html(f'<div class="charts">{distribution(content.samples_ms)}{_over_time(content)}</div>')),
            section("The machine meanwhile", machine(content.readings, _end_s(content))),
            section("Where the time goes", _traced(content), breakdown(content.stages, content.operators)),
            section("Latency at conversion", on_the_device(manifest.latency)),
            section("Latency against tokens", staircases(content.block_ms, tokens if counts else (), content.fitted_ms)),
            section("What is computed", kept_tokens(manifest, content.golden, [content.method])),
            section("Parity with the reference", record(manifest.parity)),
            layer_noise(manifest),
        ),
    )  # fmt: skip


def _threads(threads: int) -> Html:
    return text("1 thread" if threads == 1 else f"{threads} threads")


def _key(content: ProfilePage) -> Html:
    samples = content.samples_ms
    figures = [(f"p{percent}", f"{value:.2f} ms") for percent, value in percentiles(samples).items()]
    figures.append(("fastest", f"{min(samples):.2f} ms"))
    if content.cpu_ms is not None:
        figures.append(("CPU time a run", f"{content.cpu_ms:.2f} ms"))
    if content.load_ms is not None:
        figures.append(("load", f"{content.load_ms:.0f} ms"))
    return key_figures(figures)


def _model(content: ProfilePage) -> Html:
    manifest, method = content.manifest, content.manifest.method(content.method)
    kept = ", ".join(map(str, method.token_counts)) if method.token_counts else "all (dense)"
    p50 = percentiles(content.samples_ms)[50]
    return facts(
        [
            ("checkpoint", name(manifest.checkpoint)),
            ("method", name(content.method) if manifest.further_methods else NOTHING),
            ("precision", text(f"{manifest.precision}, {manifest.int8_mode}" if manifest.int8_mode else manifest.precision)),
            ("runs on", name(f"{manifest.target}, {manifest.backend}")),
            ("tokens kept", text(f"{kept} of {manifest.patch_tokens} per stage")),
            ("compute", text(f"{method.gmacs:.3f} GMACs an image, {manifest.batch} a run")),
            ("rate at p50", text(f"{manifest.batch * method.gmacs / p50 * 1e3:.0f} GMACs/s") if p50 > 0 else NOTHING),
            ("size", text(f"{manifest.size_bytes / 1e6:.2f} MB")),
            ("memory for activations", _megabytes(content.planned_bytes)),
            ("resident memory, peak", _megabytes(content.peak_rss_bytes)),
            ("made for", name(manifest.profile or "")if manifest.profile else NOTHING),
            ("SHA-256", text(manifest.sha256)),
        ]
    )  # fmt: skip


def _megabytes(size: int | None) -> Html:
    return NOTHING if size is None else text(f"{size / 1e6:.2f} MB")


def _end_s(content: ProfilePage) -> float:
    last_run = content.started_s[-1] + content.samples_ms[-1] / 1e3 if content.started_s else 0.0
    return max([last_run, *(reading.at_s for reading in content.readings)])


def _over_time(content: ProfilePage) -> Html:
    samples, timed = content.samples_ms, len(content.started_s) == len(content.samples_ms)
    if len(samples) < 2:
        return NOTHING
    places = content.started_s if timed else [float(run) for run in range(1, len(samples) + 1)]
    line = course("latency", list(zip(places, samples)))
    words = Words(
        "Latency over time" if timed else "Latency of run after run",
        f"From {samples[0]:.2f} ms in the first run to {samples[-1]:.2f} ms in the last",
        "seconds since the first run" if timed else "run",
        "ms",
    )
    over = (0.0, _end_s(content)) if timed else None
    about = "median of each stretch; shaded from the fastest to the slowest run" if line.band else "every run"
    return figure(line_chart([line], words, over), text(f"{words.title}: {about}."))


def _traced(content: ProfilePage) -> Html:
    if not (content.stages or content.operators):
        return NOTHING
    return paragraph(text("Medians of runs with tracing on, which is a few per cent slower than without."), "quiet")
