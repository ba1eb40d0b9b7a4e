"""What pages are made of in tests: small, and with names that try to get out of their place."""

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from conftest import manifest_for

from tofe_edge.cli.pages import convert, parity, profile, tokens
from tofe_edge.cli.pages.convert import ConvertPage
from tofe_edge.cli.pages.profile import ProfilePage
from tofe_edge.cli.pages.tokens import EvaluationPage, TokensPage
from tofe_edge.evaluation.evaluate import Evaluation
from tofe_edge.evaluation.golden import GoldenSet, GoldenVector
from tofe_edge.evaluation.image_tokens import ImageTokens
from tofe_edge.evaluation.parity import ClassParity, GateResult, compare
from tofe_edge.evaluation.prediction import MeanUsage, Prediction, RankedClass, distributions, top_classes
from tofe_edge.evaluation.statistics import analyse
from tofe_edge.io.artifact import Manifest, Method
from tofe_edge.io.targets import INT8_GATES, gates_of
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes.breakdown import TimeShare
from tofe_edge.runtimes.timing import Telemetry

HOSTILE = (
    "<script>alert(1)</script>\"'&<img src=x onerror=y>",
    "</title></style></svg><h1>taken over</h1>",
    "\u202egnp.kool ;the writing turns",
    "מודל עברי",
    "n" * 300,
    "nul \x00 bell \x07 half a pair \ud800",
)
"""Names as a file, a class, a layer, an operator, a sensor or a device may have them."""

SIZE, KEPT = 64, ((0, 1, 2, 5, 6, 7, 9, 10, 11), (1, 2, 3, 5, 6), (1, 2, 5))


def latency_record(source: str) -> dict[str, Any]:
    """As ``convert --max-latency-ms --on`` leaves it."""
    times = {"predicted_ms": 12.5, "measured_ms": 12.75, "measured_p50_ms": 13.25, "limit_ms": 14.0}
    return {**times, "device": source, "threads": 4, "source": source}


def plain_manifest(checkpoint: Checkpoint) -> Manifest:
    """With two budgets and a quantized layer."""
    noise = {f"blocks.{block}.fc1": {"own_snr_db": 40.0 - block, "reached_snr_db": 30.0 - block} for block in range(12)}
    record = {
        "passed": True,
        "images": 32,
        "source": "val",
        "top1_agreement": 0.9,
        "snr_db": 19.5,
        "kept_overlap": [0.9],
    }
    return replace(
        manifest_for(checkpoint, "tiny.pte", b""),
        quantization={"layers": noise},
        parity=record,
        fallback_ops={"topk": 3},
        size_bytes=12345,
        further_methods=[Method("budget_1", [5, 3, 2], 0.001, 4, {}, 0)],
        profile="jetson_orin",
        latency=latency_record(source="a board, 2026-01-31"),
    )  # fmt: skip


def golden_of(manifest: Manifest) -> GoldenSet:
    """One seeded picture for each method."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    logits = np.arange(len(manifest.class_names), dtype=np.float32)
    prediction = Prediction(logits, tuple(np.array(stage) for stage in KEPT))
    best = tuple(top_classes(logits, manifest.class_names))
    vectors = tuple(GoldenVector(method, "0.png", b"", pixels, prediction, best) for method in manifest.methods)
    return GoldenSet(manifest.sha256, gates_of(manifest), manifest.preprocessing, vectors)


def profile_page(manifest: Manifest, names: tuple[str, ...] = ("cpu0", "gpu-thermal")) -> ProfilePage:
    """A sustained run with everything that a page can show; ``names`` are those of sensors and parts."""
    states = [(1_800_000 - 10_000 * at, 40.0 + at) for at in range(50)]
    return ProfilePage(
        manifest=manifest,
        golden=golden_of(manifest),
        method="forward",
        where=f"ssh://{names[0]}",
        machine=names[-1],
        threads=4,
        samples_ms=tuple(10 + 0.02 * (run % 13) + (5.0 if run == 400 else 0.0) for run in range(500)),
        started_s=tuple(0.011 * run for run in range(500)),
        cpu_ms=9.5,
        load_ms=31.0,
        planned_bytes=755824,
        peak_rss_bytes=35_000_000,
        readings=[
            Telemetry(0.1 * at, dict.fromkeys(names, khz), dict.fromkeys(names, heat))
            for at, (khz, heat) in enumerate(states)
        ],
        stages=tuple(TimeShare(name, 1.5, 3) for name in names),
        operators=tuple(TimeShare(f"{name} {number}", 0.1 * number, number) for name in names for number in range(9)),
        sustained=f"{names[0]} throttles: the last quarter takes 1.20 times the first (95 %: 1.10 to 1.30).",
        against=f"Token reduction pays against {names[0]}.",
    )


def convert_page(manifest: Manifest, names: tuple[str, ...] = ("gate", "val")) -> ConvertPage:
    """A conversion whose second budget fails a gate; ``names`` are those of gates, images and reasons."""
    parity = ClassParity(
        images=32,
        top1_agreement=0.9,
        top1_reference=None,
        top1_artifact=None,
        decided_images=15,
        decided_agreement=1.0,
        snr_db=19.5,
        psnr_db=37.0,
        kept_overlap=(0.98, 0.97, 0.95),
    )
    return ConvertPage(
        manifest=manifest,
        golden=golden_of(manifest),
        reason=names[0],
        parity={
            method: replace(parity, gates=(GateResult("b", names[-1], method == "forward"),))
            for method in manifest.methods
        },
        source=names[-1],
        measured_on="this machine with 1 thread",
        samples_ms=(5.0, 5.1, 5.1, 5.4),
        stages=tuple(TimeShare(name, 1.5, 3) for name in names),
        operators=tuple(TimeShare(name, 0.5, 2) for name in names),
        block_ms={"int8": [(8, 0.1), (96, 0.7)]},
        fitted_ms={"int8": [(count, 0.01 * count) for count in range(1, 97)]},
    )


def with_names(manifest: Manifest, name: str) -> Manifest:
    """The manifest with somebody's name wherever a free text stands."""
    return replace(
        manifest,
        **dict.fromkeys(("artifact", "checkpoint", "backbone", "profile"), name),  # type: ignore[arg-type]
        class_names=[name] * len(manifest.class_names),
        fp32_layers=[name],
        fallback_ops={name: 1},
        further_methods=[replace(method, name=name) for method in manifest.further_methods],
        quantization={"layers": {name: {"own_snr_db": 1.0, "reached_snr_db": 1.0}}},
        parity={"passed": False, "source": name, "waiver": {"text": name, "failures": [name]}, "kept_overlap": [name]},
        versions={name: name},
        latency=latency_record(name),
    )


def image_named(name: str, label: int | None = 1, kept: tuple[tuple[int, ...], ...] = KEPT) -> ImageTokens:
    pixels = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    return ImageTokens(Path(name.replace("\0", "0")), RankedClass(0, name, 0.875), label, 16, kept, pixels)


def tokens_page(name: str = "cat.jpg") -> TokensPage:
    return TokensPage(
        checkpoint=name,
        mode="instance",
        source=name,
        usage=MeanUsage(12, 16, (9.0, 5.0, 3.0), (0.0, 1.25, 0.3)),
        drawn=[image_named(name), image_named(name, None)],
        class_names=[name, name],
    )


def evaluation_page(name: str = "cat.jpg") -> EvaluationPage:
    counts = tuple(sorted({(9 + step % 5, 5 + step % 3, 3): 1 + step for step in range(15)}.items()))
    result = Evaluation(75.5, (73.1, 77.8), 93.25, 120, 0.6543, (10.5, 6.25, 3.0), (), (0.0, 1.5, 0.25), counts)
    return EvaluationPage(
        checkpoint=name,
        source=name,
        evaluation=result,
        shipped=(9, 5, 3),
        patch_tokens=16,
        distributions=distributions(counts),
        fewest=[image_named(name)],
        most=[image_named(name), image_named(name)],
        class_names=[name, name],
    )


def parity_page(
    manifest: Manifest, names: tuple[str, ...] = ("val",), picture: bytes | None = b"\xff\xd8 a picture"
) -> str:
    """A comparison of seeded noise, rendered; ``names`` are those of images."""
    generator, images = np.random.default_rng(0), 60
    logits = generator.standard_normal((images, len(manifest.class_names))).astype(np.float32)
    noise = 0.2 * generator.standard_normal(logits.shape).astype(np.float32)
    margins = [tuple(map(float, one)) for one in generator.random((images, 3))]
    reference = [Prediction(row, (), margin) for row, margin in zip(logits, margins)]
    artifact = [Prediction(row, ()) for row in logits + noise]
    labels = [int(row.argmax()) if number % 4 else int(row.argmin()) for number, row in enumerate(logits)]
    analysis = analyse(reference, artifact, labels, [names[number % len(names)] for number in range(images)])
    compared = compare(reference, artifact, labels, INT8_GATES)
    return parity.render(manifest, compared, analysis, names[0], lambda name: picture)


PAGES: dict[str, Callable[..., str]] = {
    "profile": lambda manifest, *names: profile.render(profile_page(manifest, names)),
    "convert": lambda manifest, *names: convert.render(convert_page(manifest, names)),
    "parity": lambda manifest, *names: parity_page(manifest, names),
    "tokens": lambda manifest, *names: tokens.render_tokens(tokens_page(names[0])),
    "evaluation": lambda manifest, *names: tokens.render_evaluation(evaluation_page(names[0])),
}
"""Every page of a manifest, with these names wherever others than the manifest give one."""


VOID = frozenset({"meta", "img", "br"})


class Tags(HTMLParser):
    """Every start tag with its attributes, the text outside of the style, and tags left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    @property
    def names(self) -> list[str]:
        return [tag for tag, _ in self.seen]

    @property
    def addresses(self) -> list[str | None]:
        """Of everything that a browser would fetch."""
        keys = ("src", "href", "srcset", "data", "action", "xlink:href")
        return [value for _, attributes in self.seen for key, value in attributes.items() if key in keys]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data
