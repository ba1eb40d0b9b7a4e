"""The page of ``tofe-edge parity``: gates, statistics, and the images that changed the most, with thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Callable

from tofe_edge.cli.pages.rendering import render_template
from tofe_edge.cli.pages.sections import layer_noise, overlap_gate
from tofe_edge.evaluation.parity import Parity
from tofe_edge.evaluation.statistics import Analysis
from tofe_edge.io.artifact import Manifest

Thumbnail = Callable[[str], bytes | None]
"""Takes the name of an image and returns a small JPEG of it, or ``None``."""


def render(manifest: Manifest, parity: Parity, analysis: Analysis | None, source: str, thumbnail: Thumbnail) -> str:
    """Return the page; it loads nothing from anywhere else, and no name in it can be markup."""
    changed = zip(analysis.worst_names, analysis.worst) if analysis else ()
    return render_template(
        "parity.html",
        manifest=manifest,
        parity=parity,
        analysis=analysis,
        source=source,
        names=manifest.class_names,
        worst=[(name, change, base64.b64encode(thumbnail(name) or b"").decode()) for name, change in changed],
        layer_noise=layer_noise(manifest),
        overlap_gate=overlap_gate(manifest),
    )
