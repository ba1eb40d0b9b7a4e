"""The budget rule: how many multiply-accumulates per image a device is trusted with.

    budget = EFFICIENCY x peak int8 rate of the threads used / 2 x FRAME_SHARE / FRAME_RATE_HZ

The budget is an estimate that picks a first checkpoint before anything was timed. It knows neither memory traffic nor
heat. A latency measured on the device is better evidence, and a profile may carry a ``measured`` budget instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from tofe_edge.profiles.schema import CpuCluster

EFFICIENCY = 0.2
"""Share of the int8 dot-product peak that a vision transformer reaches at batch 1. An assumption, not a measurement:
long int8 matrix products are taken to reach 0.4 of the peak, and half of the time to go to what int8 does not speed up
(softmax, layer norm, GELU, attention in floating point, token matrices of 200 rows or fewer). It also has to cover
clocks that fall when a device gets warm."""

FRAME_RATE_HZ = 30.0
"""Camera frames per second, each of which the model sees."""

FRAME_SHARE = 0.4
"""Share of a frame's time the model may take (13.3 ms at 30 Hz). Capture, resizing, drawing and the rest of the app
need the other 0.6."""

OPS_PER_MAC = 2
"""Peaks count a multiply and an add as two operations; model cost counts the pair as one MAC."""


def big_core_int8_gops(clusters: Sequence[CpuCluster], threads: int) -> float:
    """Peak int8 rate, 10^9 operations per second, of the ``threads`` fastest big cores, one thread per core.

    Raises ValueError when ``threads`` is below 1 or above the number of big cores.
    """
    core_gops = sorted(
        (
            cluster.ghz.value * cluster.int8_ops_per_cycle.value
            for cluster in clusters
            if cluster.kind == "big" and cluster.int8_ops_per_cycle is not None
            for _ in range(cluster.cores)
        ),
        reverse=True,
    )
    if not 1 <= threads <= len(core_gops):
        raise ValueError(f"threads is {threads}; use 1 to {len(core_gops)}, the number of big cores")
    return sum(core_gops[:threads])


def derive_budget_gmacs(int8_gops: float) -> float:
    """Return the budget in GMACs per image (not rounded) by the rule above.

    ``int8_gops`` is a peak in 10^9 operations per second, usually from ``big_core_int8_gops``. int8 peaks are used for
    every device, also if the default target is Core ML: an accelerator can only do better, and not all of them
    publish a peak that batch-1 models come near.
    """
    return EFFICIENCY * int8_gops / OPS_PER_MAC * FRAME_SHARE / FRAME_RATE_HZ
