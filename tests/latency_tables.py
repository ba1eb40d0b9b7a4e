"""Latency tables and timings that nobody measured."""

from dataclasses import replace

from tofe_edge.budget.latency_model import curve, shape_of
from tofe_edge.model.backbones.spec import Backbone, Conv
from tofe_edge.profiles import Alignment, Anchor, LatencyTable, Step
from tofe_edge.runtimes.latency import Latency
from tofe_edge.runtimes.timing import Machine, Timing

NET = Backbone(
    name="a_net", image_size=224, patch_tokens=196, prefix_tokens=1, dim=192, depth=12, heads=3, mlp_hidden=768,
    classes=1000, stem=(Conv(16, 3, 192, 16),), stages=(3, 6, 9),
)  # fmt: skip
OWN = (95, 63, 31)


def made_up_timing(samples_ms: tuple[float, ...], machine: Machine | None = None) -> Timing:
    """What a bench answers that measured nothing else."""
    latency = Latency(samples_ms, 1.0)
    return Timing(latency=latency, load_ms=1.0, threads=1, planned_bytes=None, peak_rss_bytes=None, machine=machine)


def table_for(
    backbone: Backbone = NET,
    precision: str = "int8",
    *,
    kept: tuple[int, ...] = OWN,
    block_us: float = 4.0,
    rest_ms: float = 0.3,
    step: Step | None = None,
    aligned: Alignment | None = None,
) -> LatencyTable:
    """A table whose block takes ``block_us`` a token (with the teeth of ``step`` on it), and whose net ``rest_ms`` more."""
    most, patches = backbone.patch_tokens + backbone.prefix_tokens, backbone.patch_tokens

    def block(tokens: int) -> float:
        teeth = 0.0 if step is None else step.ms * (-(-tokens // step.tokens) - tokens / step.tokens)
        spared = aligned.ms if aligned is not None and tokens % aligned.tokens == 0 else 0.0
        return tokens * block_us / 1e3 + teeth - spared

    table = LatencyTable(
        backbone=backbone.name,
        shape=shape_of(backbone),
        precision=precision,
        threads=1,
        provenance="measured",
        source="made up for a test",
        stem=0.2,
        selection=0.1,
        block=tuple((tokens, block(tokens)) for tokens in (2, most // 2, most)),
        tail=((2, 0.02), (most, 0.2)),
        approximator=((1, 0.001), (patches, 0.05)),
        dense=backbone.depth * block(most) + 0.5,
        tofe=(Anchor(kept, 1e-9),),
        step=step,
        aligned=aligned,
    )
    return replace(table, tofe=(Anchor(kept, ms_by_hand(table, backbone, kept, rest_ms)),))


def ms_by_hand(table: LatencyTable, backbone: Backbone, kept: tuple[int, ...], rest_ms: float) -> float:
    """Sum of the parts by hand, and the rest."""
    most = backbone.patch_tokens + backbone.prefix_tokens
    blocks = curve(table.block, most, table.step, table.aligned)
    tails, approximators = curve(table.tail, most), curve(table.approximator, most)
    tokens = [count + backbone.prefix_tokens for count in (backbone.patch_tokens, *kept)]
    total = table.stem + len(kept) * table.selection + rest_ms
    for stage, blocks_in_stage in enumerate(backbone.stage_lengths()):
        is_last = stage == len(kept)
        total += (blocks_in_stage - is_last) * float(blocks[tokens[stage]])
    total += float(tails[tokens[-1]]) + sum(float(approximators[backbone.patch_tokens - count]) for count in kept[:-1])
    return total
