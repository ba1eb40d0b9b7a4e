"""A bar chart of a comparison as SVG, the same bytes for the same results."""

from __future__ import annotations

import io

from benchmarks.report import Results
from tofe_edge.errors import InputError

_COLOURS = {"dense": "#9aa5b1", "ToFe": "#1f77b4"}
_SETTINGS = {
    "svg.hashsalt": "tofe-edge",  # ids of elements are random without
    "svg.fonttype": "none",  # text, whatever fonts this machine has
    "font.family": "sans-serif",
    "font.size": 9,
}


def plot(results: Results) -> bytes:
    """Median latencies in milliseconds, a group of bars per runtime and precision, the first on top.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("matplotlib is not installed: pip install -c constraints.txt -e '.[benchmarks]'") from error
    groups = results.groups()
    labels = list(dict.fromkeys((row.runtime, row.precision) for row in results.rows))
    height = 0.8 / len(groups)
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(7.5, 0.8 + 0.36 * len(labels)), layout="constrained")
        axes = figure.add_subplot()
        for number, group in enumerate(groups):
            found = {(row.runtime, row.precision): row.p50_ms for row in results.rows if row.group == group}
            places = [place + (number - (len(groups) - 1) / 2) * height for place in range(len(labels))]
            present = [(place, found[label]) for place, label in zip(places, labels) if label in found]
            bars = axes.barh(
                [place for place, _ in present],
                [time for _, time in present],
                height,
                color=_COLOURS.get(group),
                label=f"{group}, {results.conditions['gmacs'][group]:.2f} GMACs",
            )
            axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
        axes.set_yticks(range(len(labels)), [" ".join(label) for label in labels])
        axes.invert_yaxis()
        axes.margins(x=0.08, y=0.02)
        axes.set_xlabel(f"median latency in ms, {results.conditions['backbone']}, {_threads(results)}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _threads(results: Results) -> str:
    threads = results.conditions["threads"]
    return "one thread" if threads == 1 else f"{threads} threads"
