"""Taking a run apart: on made-up events, and on a real trace of a tiny net."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TinyModel

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact, Manifest, open_artifact, write_manifest
from tofe_edge.io.files import sha256_of
from tofe_edge.io.preprocessing import Preprocessing
from tofe_edge.runtimes.etdump import Breakdown, Event, TimeShare, break_down, operator_times, stage_names, stage_times


def manifest(
    stage_blocks: list[int], path: Path | None = None, name: str = "made-up.pte", selection: str = "topk"
) -> Manifest:
    return Manifest(
        artifact=name,
        sha256=sha256_of(path) if path else "",
        size_bytes=path.stat().st_size if path else 0,
        target="executorch",
        backend="xnnpack",
        precision="fp32",
        int8_mode=None,
        checkpoint="made-up",
        checkpoint_sha256="",
        backbone="deit_tiny_patch16_224",
        profile=None,
        token_counts=None,
        stage_blocks=stage_blocks,
        patch_tokens=16,
        gmacs=0.0,
        delegates=len(stage_blocks),
        fallback_ops={},
        fp32_layers=[],
        planned_memory_bytes=0,
        further_methods=[],
        batch=1,
        selection=selection,
        layout="tokens_first",
        io="tensor",
        deployment_target=None,
        quantization=None,
        preprocessing=Preprocessing(64, 0.9, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        class_names=[],
        class_ids=[],
        parity=None,
        versions={},
    )


def delegate(instruction: int, ms: float, *inner: tuple[str, float]) -> list[Event]:
    """A delegate call and what ran inside it, in a trace's order."""
    inside = [Event(name, True, instruction, inner_ms) for name, inner_ms in inner]
    return [*inside, Event("DELEGATE_CALL", False, instruction, ms)]


def fallback(instruction: int, name: str, ms: float) -> Event:
    return Event(f"native_call_{name}", False, instruction, ms)


def made_up_trace(stages: int) -> list[Event]:
    events = delegate(0, 10.0, ("Fully Connected (NC, F32) GEMM #1", 6.0), ("Softmax (NC, F32) #1", 3.0))
    for stage in range(1, stages):
        first = 10 * stage
        events += [fallback(first, "topk.values", 0.25), fallback(first + 1, "index_select.out", 0.5)]
        events += delegate(first + 2, 5.0 + stage, ("Fully Connected (NC, F32) GEMM #2", 4.0))
    return events


def test_stages_are_named_in_the_papers_words() -> None:
    assert stage_names(manifest([3, 3, 3, 3])) == [
        "stem, blocks 1-3, selector 1",
        "blocks 4-6, approximator 1, selector 2",
        "blocks 7-9, approximator 2, selector 3",
        "blocks 10-12, head",
    ]


def test_a_stage_of_one_block_has_no_range() -> None:
    assert stage_names(manifest([1, 1, 2, 1]))[1:] == [
        "block 2, approximator 1, selector 2",
        "blocks 3-4, approximator 2, selector 3",
        "block 5, head",
    ]


def test_a_dense_net_is_one_stage_from_stem_to_head() -> None:
    assert stage_names(manifest([12])) == ["stem, blocks 1-12, head"]


def test_what_runs_between_two_delegates_is_a_selection() -> None:
    shares = stage_times(made_up_trace(4), manifest([3, 3, 3, 3]))
    names = stage_names(manifest([3, 3, 3, 3]))
    selections = [TimeShare(f"selection {number}", 0.75, 2) for number in (1, 2, 3)]
    assert shares == [
        TimeShare(names[0], 10.0, 2),
        selections[0],
        TimeShare(names[1], 6.0, 1),
        selections[1],
        TimeShare(names[2], 7.0, 1),
        selections[2],
        TimeShare(names[3], 8.0, 1),
    ]


def test_what_runs_before_the_first_delegate_is_no_selection() -> None:
    prologue = [fallback(0, "full.out", 0.125), fallback(1, "arange.start_out", 0.125)]
    shares = stage_times([*prologue, *made_up_trace(3)], manifest([3, 3, 3]))
    assert shares[0] == TimeShare("preparation", 0.25, 2)
    assert shares[1:] == stage_times(made_up_trace(3), manifest([3, 3, 3]))


def test_delegates_without_anything_between_them_have_no_selection() -> None:
    shares = stage_times([*delegate(0, 1.0), *delegate(1, 2.0)], manifest([1, 1]))
    assert [share.ms for share in shares] == [1.0, 2.0]


@pytest.mark.parametrize("delegates", [5, 6])
def test_too_many_delegates_are_an_error(delegates: int) -> None:
    with pytest.raises(DeviceError, match=r"made-up\.pte: its trace has more than the 4 delegates expected"):
        stage_times(made_up_trace(delegates), manifest([3, 3, 3, 3]))


@pytest.mark.parametrize("delegates", [1, 3])
def test_too_few_delegates_are_an_error(delegates: int) -> None:
    with pytest.raises(DeviceError, match=r"made-up\.pte: its trace has fewer than the 4 delegates expected"):
        stage_times(made_up_trace(delegates), manifest([3, 3, 3, 3]))


def test_views_between_two_delegates_count_neither_as_a_step_nor_in_time() -> None:
    plain = made_up_trace(3)
    views = []
    for event in plain:
        views += [event, fallback(event.instruction, "et_view.default", 100.0)] if not event.inside else [event]
    assert stage_times(views, manifest([3, 3, 3])) == stage_times(plain, manifest([3, 3, 3]))


def test_a_net_with_selection_by_ranks_is_one_delegate() -> None:
    ranked = manifest([3, 3, 3, 3], selection="rank")
    assert stage_times(made_up_trace(1), ranked) == [TimeShare("the whole net", 10.0, 2)]
    with pytest.raises(DeviceError, match="more than the 1 delegates expected"):
        stage_times(made_up_trace(2), ranked)


def test_an_empty_trace_is_an_error() -> None:
    with pytest.raises(DeviceError, match="fewer than the 1 delegates"):
        stage_times([], manifest([12]))


def test_operators_are_summed_by_kind_largest_first_and_delegates_not_counted_twice() -> None:
    assert operator_times(made_up_trace(3)) == [
        TimeShare("Fully Connected (NC, F32) GEMM", 14.0, 3),
        TimeShare("Softmax (NC, F32)", 3.0, 1),
        TimeShare("index_select.out", 1.0, 2),
        TimeShare("topk.values", 0.5, 2),
    ]


@pytest.fixture(scope="module")
def artifact(tiny_model: TinyModel) -> Artifact:
    return open_artifact(tiny_model())


@pytest.fixture(scope="module")
def breakdown(artifact: Artifact) -> Breakdown:
    return break_down(artifact, threads=1, runs=3)


def test_a_real_trace_has_four_stages_and_three_selections(artifact: Artifact, breakdown: Breakdown) -> None:
    names = stage_names(artifact.manifest)
    assert [share.name for share in breakdown.stages] == [
        names[0], "selection 1", names[1], "selection 2", names[2], "selection 3", names[3],
    ]  # fmt: skip
    assert all(share.ms > 0 and share.count > 0 for share in breakdown.stages)


def test_a_real_trace_names_the_kinds_of_operators(breakdown: Breakdown) -> None:
    counts = {share.name: share.count for share in breakdown.operators}
    assert sum(count for name, count in counts.items() if "Fully Connected" in name) > 4 * 6
    assert sum(count for name, count in counts.items() if "topk" in name) == 3
    assert not any("#" in name or name.startswith("native_call_") or name == "DELEGATE_CALL" for name in counts)
    times = [share.ms for share in breakdown.operators]
    assert times == sorted(times, reverse=True)


def test_every_method_of_a_batch_of_images_is_taken_apart(elastic_artifact: Artifact) -> None:
    for name in elastic_artifact.manifest.methods:
        found = break_down(elastic_artifact, threads=1, method=name, runs=2)
        names = [share.name for share in found.stages if share.name != "preparation"]
        stages = stage_names(elastic_artifact.manifest)
        assert names[0::2] == stages and names[1::2] == ["selection 1", "selection 2", "selection 3"]


def test_a_method_that_the_program_lacks_is_refused(elastic_artifact: Artifact) -> None:
    with pytest.raises(InputError, match="has no method 'backward'"):
        break_down(elastic_artifact, threads=1, method="backward", runs=2)


def test_a_file_without_executorchs_magic_is_refused_before_it_is_traced(tmp_path: Path) -> None:
    path = tmp_path / "odd.pte"
    path.write_bytes(b"\0" * 4096)
    with pytest.raises(InputError, match=r"odd\.pte: is not an ExecuTorch program"):
        break_down(write_manifest(path, manifest([3, 3, 3, 3], path, path.name)), threads=1)
