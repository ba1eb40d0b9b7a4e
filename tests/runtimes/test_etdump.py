"""Breaking a run down: on made-up events, and on a real trace of a tiny net."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TinyModel, manifest_for

from tofe_edge.errors import DeviceError, InputError
from tofe_edge.io.artifact import Artifact, Manifest, open_artifact
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.runtimes.breakdown import TimeShare, stage_names
from tofe_edge.runtimes.etdump import Event, break_down, operator_times, stage_times

Made = Callable[..., Manifest]


@pytest.fixture
def manifest(tiny_checkpoint: Checkpoint) -> Made:
    """``manifest(stage_blocks)``"""
    made = manifest_for(tiny_checkpoint, "made-up.pte", b"")
    return lambda blocks, selection="topk": replace(made, stage_blocks=blocks, selection=selection)


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


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        ([3, 3, 3, 3], ["blocks 1-3", "blocks 4-6", "blocks 7-9", "blocks 10-12"]),
        ([1, 1, 2, 1], ["block 1", "block 2", "blocks 3-4", "block 5"]),
    ],
)
def test_stages_are_named_in_the_papers_words(manifest: Made, blocks: list[int], names: list[str]) -> None:
    first, second, third, last = names
    assert stage_names(manifest(blocks)) == [
        f"stem, {first}, selector 1",
        f"{second}, approximator 1, selector 2",
        f"{third}, approximator 2, selector 3",
        f"{last}, head",
    ]
    assert stage_names(manifest([12])) == ["stem, blocks 1-12, head"]


def test_what_runs_between_two_delegates_is_a_selection(manifest: Made) -> None:
    made = manifest([3, 3, 3, 3])
    shares = stage_times(made_up_trace(4), made)
    assert shares[1::2] == [TimeShare(f"selection {number}", 0.75, 2) for number in (1, 2, 3)]
    times = [(10.0, 2), (6.0, 1), (7.0, 1), (8.0, 1)]
    assert shares[0::2] == [TimeShare(name, *time) for name, time in zip(stage_names(made), times)]
    # What runs before the first delegate is not a selection.
    prologue = [fallback(0, "full.out", 0.125), fallback(1, "arange.start_out", 0.125)]
    assert stage_times([*prologue, *made_up_trace(4)], made) == [TimeShare("preparation", 0.25, 2), *shares]
    # Without anything between them there is no selection.
    bare = stage_times([*delegate(0, 1.0), *delegate(1, 2.0)], manifest([1, 1]))
    assert [share.ms for share in bare] == [1.0, 2.0]


@pytest.mark.parametrize(("delegates", "message"), [(5, "more"), (6, "more"), (1, "fewer"), (3, "fewer")])
def test_another_number_of_delegates_is_an_error(manifest: Made, delegates: int, message: str) -> None:
    with pytest.raises(DeviceError, match=rf"made-up\.pte: its trace has {message} than the 4 delegates expected"):
        stage_times(made_up_trace(delegates), manifest([3, 3, 3, 3]))


def test_an_empty_trace_is_an_error(manifest: Made) -> None:
    with pytest.raises(DeviceError, match="fewer than the 1 delegates"):
        stage_times([], manifest([12]))


def test_views_between_two_delegates_count_neither_as_a_step_nor_in_time(manifest: Made) -> None:
    plain = made_up_trace(3)
    views = []
    for event in plain:
        views += [event, fallback(event.instruction, "et_view.default", 100.0)] if not event.inside else [event]
    assert stage_times(views, manifest([3, 3, 3])) == stage_times(plain, manifest([3, 3, 3]))


def test_a_net_with_selection_by_ranks_is_one_delegate(manifest: Made) -> None:
    ranked = manifest([3, 3, 3, 3], selection="rank")
    assert stage_times(made_up_trace(1), ranked) == [TimeShare("the whole net", 10.0, 2)]
    with pytest.raises(DeviceError, match="more than the 1 delegates expected"):
        stage_times(made_up_trace(2), ranked)


def test_operators_are_summed_by_kind_largest_first_and_delegates_not_counted_twice() -> None:
    assert operator_times(made_up_trace(3)) == [
        TimeShare("Fully Connected (NC, F32) GEMM", 14.0, 3),
        TimeShare("Softmax (NC, F32)", 3.0, 1),
        TimeShare("index_select.out", 1.0, 2),
        TimeShare("topk.values", 0.5, 2),
    ]


def test_a_real_trace_has_every_stage_selection_and_kind_of_operator(tiny_model: TinyModel) -> None:
    artifact = open_artifact(tiny_model())
    breakdown, names = break_down(artifact, threads=1, runs=3), stage_names(artifact.manifest)
    assert [share.name for share in breakdown.stages] == [
        names[0], "selection 1", names[1], "selection 2", names[2], "selection 3", names[3],
    ]  # fmt: skip
    assert all(share.ms > 0 and share.count > 0 for share in breakdown.stages)
    counts = {share.name: share.count for share in breakdown.operators}
    assert sum(count for name, count in counts.items() if "Fully Connected" in name) > 4 * 6
    assert sum(count for name, count in counts.items() if "topk" in name) == 3
    assert not any("#" in name or name.startswith("native_call_") or name == "DELEGATE_CALL" for name in counts)
    times = [share.ms for share in breakdown.operators]
    assert times == sorted(times, reverse=True)


def test_every_method_of_a_batch_of_images_is_broken_down(elastic_artifact: Artifact) -> None:
    stages = stage_names(elastic_artifact.manifest)
    for name in elastic_artifact.manifest.methods:
        shares = break_down(elastic_artifact, threads=1, method=name, runs=2).stages
        names = [share.name for share in shares if share.name != "preparation"]
        assert names[0::2] == stages and names[1::2] == ["selection 1", "selection 2", "selection 3"]


def test_what_cannot_be_traced_is_refused(elastic_artifact: Artifact, manifest: Made, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no method 'backward'"):
        break_down(elastic_artifact, threads=1, method="backward", runs=2)
    path = tmp_path / "odd.pte"
    path.write_bytes(b"\0" * 4096)
    with pytest.raises(InputError, match=r"odd\.pte: is no"):
        break_down(Artifact(path, manifest([3, 3, 3, 3])), threads=1)
