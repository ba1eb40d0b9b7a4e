"""The page of ``tofe-edge profile``: how fast, how evenly, where the time goes, and the state of the machine meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tofe_edge.cli.pages.charts import Words, figure, line_chart, percentiles, shortened, split_outliers
from tofe_edge.cli.pages.rendering import number, render_template
from tofe_edge.cli.pages.sections import (
    latency_histogram,
    layer_noise,
    machine_charts,
    overlap_gate,
)
from tofe_edge.cli.pages.token_map import heat_legend, method_maps
from tofe_edge.evaluation.golden import GoldenSet
from tofe_edge.io.artifact import Manifest
from tofe_edge.runtimes.breakdown import TimeShare
from tofe_edge.runtimes.timing import Telemetry


@dataclass(frozen=True, kw_only=True)
class ProfilePage:
    """What the page shows; what is not known is left out of it."""

    manifest: Manifest
    golden: GoldenSet | None
    """The source of the token map."""
    method: str
    where: str
    """How the device was reached: ``this machine``, ``ssh://user@host``."""
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
    readings: Sequence[Telemetry] = ()
    stages: Sequence[TimeShare] = ()
    operators: Sequence[TimeShare] = ()
    sustained: str = ""
    """The verdict on throttling, in lines."""
    busy: bool = False
    against: str = ""
    """The verdict against the dense model, in lines."""


def render(content: ProfilePage) -> str:
    """Return the page; it loads nothing from anywhere else, and no name in it can be markup.

    Raises:
        InputError: the manifest has no such method, or the golden vectors do not belong to it.
    """
    manifest, method = content.manifest, content.manifest.method(content.method)
    shares = (manifest.parity or {}).get("kept_overlap")
    charts, sensors = machine_charts(content.readings, _end_s(content))
    return render_template(
        "profile.html",
        page=content,
        manifest=manifest,
        method=method,
        percentiles=percentiles(content.samples_ms),
        histogram=latency_histogram(content.samples_ms),
        over_time=_over_time(content),
        machine_charts=charts,
        sensors=sensors,
        maps=method_maps(manifest, content.golden, [content.method]),
        heat_legend=heat_legend(len(manifest.stage_blocks)),
        kept_overlap=[share for share in map(number, shares if isinstance(shares, list) else []) if share is not None],
        layer_noise=layer_noise(manifest),
        overlap_gate=overlap_gate(manifest),
    )


def _end_s(content: ProfilePage) -> float:
    last_run = content.started_s[-1] + content.samples_ms[-1] / 1e3 if content.started_s else 0.0
    return max([last_run, *(reading.at_s for reading in content.readings)])


def _over_time(content: ProfilePage) -> Markup:
    samples, timed = content.samples_ms, len(content.started_s) == len(content.samples_ms)
    if len(samples) < 2:
        return Markup("")
    others, outliers = split_outliers(samples)
    # A single run of ten times the others would leave those a flat line.
    drawn = [min(one, max(others)) for one in samples]
    line = shortened("latency", list(zip(content.started_s if timed else range(1, len(samples) + 1), drawn)))
    words = Words(
        "Latency over time" if timed else "Latency of run after run",
        f"From {samples[0]:.2f} ms in the first run to {samples[-1]:.2f} ms in the last",
        "seconds since the first run" if timed else "run",
        "ms",
    )
    about = "median of each stretch; shaded from the fastest to the slowest run" if line.band else "every run"
    slow = f" {len(outliers)} slower, up to {outliers[-1]:.2f} ms, at the upper edge." if outliers else ""
    return figure(
        line_chart([line], words, over=(0.0, _end_s(content)) if timed else ()), f"{words.title}: {about}.{slow}"
    )
