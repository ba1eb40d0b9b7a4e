"""What the real exporter makes of tiny nets: one delegate a stage, the reference's numbers, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from converters.executorch import Lowered, Precision, lower
from converters.static_graph import build_static_graph
from runtimes.native_output import swallow_native_stderr
from tofe_edge.backbones import TokenCounts
from tofe_edge.errors import InputError
from tofe_edge.parity import kept_overlap, snr_db
from tofe_edge.selections import compose_selections
from tofe_edge.tofe import ToFe

COUNTS = TokenCounts((9, 5, 3))
IMAGES = 8
SELECTORS = [f"selectors.{stage}.{layer}" for stage in range(3) for layer in ("fc1", "fc2", "score")]


@dataclass(frozen=True)
class Exported:
    """A net, what was made of it, and the outputs of both on the same images."""

    lowered: Lowered
    logits: npt.NDArray[np.float32]
    kept: list[list[npt.NDArray[np.int64]]]
    """Per image, per stage."""
    wanted_logits: npt.NDArray[np.float32]
    wanted_kept: list[list[npt.NDArray[np.int64]]]


def images(count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 1, 3, 64, 64, generator=generator))


def export_and_run(model: ToFe, counts: TokenCounts | None, precision: Precision) -> Exported:
    graph = build_static_graph(model, counts)
    lowered = lower(graph, 64, precision, images(4, seed=1) if precision == "int8-static" else ())
    stages = counts.kept if counts else ()
    with swallow_native_stderr():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(lowered.program).load_method("forward")
    logits, kept, wanted_logits, wanted_kept = [], [], [], []
    for image in images(IMAGES, seed=2):
        first, *selections = method.execute([image])
        logits.append(first.numpy()[0].copy())
        kept.append(compose_selections([selection.numpy() for selection in selections], stages))
        with torch.no_grad():
            if counts is None:
                wanted_logits.append(model.forward_dense(image).numpy()[0])
                continue
            reference = model.forward_batch(image, counts)
        wanted_logits.append(reference.logits.numpy()[0])
        wanted_kept.append([index.numpy()[0] for index in reference.kept])
    return Exported(lowered, np.stack(logits), kept, np.stack(wanted_logits), wanted_kept)


@pytest.fixture(scope="module")
def fp32(tiny_tofe: Callable[..., ToFe]) -> Exported:
    return export_and_run(tiny_tofe(), COUNTS, "fp32")


@pytest.fixture(scope="module")
def int8_dynamic(tiny_tofe: Callable[..., ToFe]) -> Exported:
    return export_and_run(tiny_tofe(), COUNTS, "int8-dynamic")


@pytest.fixture(scope="module")
def int8_static(tiny_tofe: Callable[..., ToFe]) -> Exported:
    return export_and_run(tiny_tofe(), COUNTS, "int8-static")


@pytest.fixture(scope="module")
def dense(tiny_tofe: Callable[..., ToFe]) -> Exported:
    return export_and_run(tiny_tofe(), None, "fp32")


@pytest.fixture(scope="module")
def lvvit(tiny_tofe: Callable[..., ToFe]) -> Exported:
    return export_and_run(tiny_tofe("lvvit_s"), COUNTS, "fp32")


TOFE = ["fp32", "int8_dynamic", "int8_static", "lvvit"]


@pytest.fixture
def exported(request: pytest.FixtureRequest) -> Exported:
    """The export that a test's parameter names."""
    result: Exported = request.getfixturevalue(request.param)
    return result


def overlap(exported: Exported, stage: int) -> float:
    pairs = zip(exported.wanted_kept, exported.kept, strict=True)
    return float(np.mean([kept_overlap(wanted[stage], found[stage]) for wanted, found in pairs]))


@pytest.mark.parametrize("exported", TOFE, indirect=True)
def test_each_stage_is_one_delegate(exported: Exported) -> None:
    assert exported.lowered.delegates == 4


@pytest.mark.parametrize("exported", TOFE, indirect=True)
def test_only_the_three_selections_stay_outside_the_delegates(exported: Exported) -> None:
    assert exported.lowered.fallback_ops == {"topk": 3, "index_select": 3, "unsqueeze_copy": 3}


def test_the_dense_net_is_one_delegate_with_nothing_outside(dense: Exported) -> None:
    assert dense.lowered.delegates == 1
    assert dense.lowered.fallback_ops == {}


@pytest.mark.parametrize("exported", ["fp32", "lvvit"], indirect=True)
def test_fp32_keeps_the_tokens_that_the_reference_keeps(exported: Exported) -> None:
    for found, wanted in zip(exported.kept, exported.wanted_kept, strict=True):
        for found_stage, wanted_stage in zip(found, wanted, strict=True):
            assert set(found_stage.tolist()) == set(wanted_stage.tolist())


@pytest.mark.parametrize("exported", ["fp32", "lvvit", "dense"], indirect=True)
def test_fp32_logits_are_those_of_the_reference(exported: Exported) -> None:
    np.testing.assert_allclose(exported.logits, exported.wanted_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("exported", [*TOFE, "dense"], indirect=True)
def test_logits_follow_the_image(exported: Exported) -> None:
    """Else agreement would be that of constants."""
    spread = exported.wanted_logits.std(axis=0).max()
    assert spread > 100 * 1e-4
    assert exported.logits.std(axis=0).max() == pytest.approx(spread, rel=0.5)


# Measured: 35 dB dynamic, 17 dB static (ranges from 4 images of noise).
@pytest.mark.parametrize(("exported", "decibels"), [("int8_dynamic", 22), ("int8_static", 10)], indirect=["exported"])
def test_int8_logits_are_close_to_the_reference(exported: Exported, decibels: float) -> None:
    snr = snr_db(exported.wanted_logits, exported.logits)
    assert decibels < snr < 80, "closer than int8 can be: was it quantized?"


@pytest.mark.parametrize("exported", ["int8_dynamic", "int8_static"], indirect=True)
def test_int8_keeps_nearly_the_same_tokens(exported: Exported) -> None:
    assert min(overlap(exported, stage) for stage in range(3)) > 0.85


def test_fp32_names_no_layer_as_left_out(fp32: Exported) -> None:
    assert fp32.lowered.fp32_layers == []


def test_static_int8_leaves_the_selectors_alone_in_fp32(int8_static: Exported) -> None:
    assert int8_static.lowered.fp32_layers == SELECTORS


def test_dynamic_int8_leaves_the_selectors_and_the_convolution_in_fp32(int8_dynamic: Exported) -> None:
    assert int8_dynamic.lowered.fp32_layers == [*SELECTORS, "stem.convolutions.0"]


@pytest.mark.parametrize("exported", ["int8_dynamic", "int8_static"], indirect=True)
def test_int8_makes_the_program_smaller(exported: Exported, fp32: Exported) -> None:
    assert len(exported.lowered.program) < 0.65 * len(fp32.lowered.program)


def test_planned_memory_covers_the_input_and_not_the_weights(fp32: Exported, dense: Exported) -> None:
    for exported in (fp32, dense):
        assert 4 * 3 * 64 * 64 <= exported.lowered.planned_memory_bytes < len(exported.lowered.program)


@pytest.mark.slow
def test_the_same_net_gives_the_same_bytes(fp32: Exported, tiny_tofe: Callable[..., ToFe]) -> None:
    again = lower(build_static_graph(tiny_tofe(), COUNTS), 64, "fp32")
    assert again == fp32.lowered


def test_static_int8_without_calibration_images_is_refused(tiny_tofe: Callable[..., ToFe]) -> None:
    with pytest.raises(InputError, match="static int8 needs calibration images; give a folder with --calibration"):
        lower(build_static_graph(tiny_tofe(), COUNTS), 64, "int8-static")
