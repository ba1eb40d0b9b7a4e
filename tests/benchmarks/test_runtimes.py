"""The comparison end to end on tiny nets, with the runtime that is always there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from benchmarks import runtimes, subjects
from benchmarks.contenders import Built, Recipe, Subject, Unavailable
from benchmarks.host import processor, usable_cores, version, versions
from benchmarks.report import read_results
from benchmarks.runtimes import agreement
from tofe_edge.errors import InputError
from tofe_edge.io.labels import default_classes
from tofe_edge.model.backbones import TokenCounts, create_backbone
from tofe_edge.model.backbones.spec import default_stages
from tofe_edge.model.checkpoint import Checkpoint, describe, save
from tofe_edge.model.macs import dense_macs, gmacs, tofe_macs
from tofe_edge.model.tofe import ToFe


def recipes() -> tuple[Recipe, ...]:
    """Eager PyTorch, one that is missing, one that is broken and one that computes something else."""

    def eager(subject: Subject) -> Built:
        net = subject.plain()
        return Built(lambda pixels: net(torch.from_numpy(pixels)).detach().numpy(), 10)

    def missing(subject: Subject) -> Built:
        raise Unavailable("other not installed: pip install other")

    def broken(subject: Subject) -> Built:
        raise RuntimeError("no kernel\nand more")

    def wrong(subject: Subject) -> Built:
        return Built(lambda pixels: np.ones((1, 10), np.float32), 10, 3)

    makers = {"Eager": eager, "Missing": missing, "Broken": broken, "Wrong": wrong}
    return tuple(Recipe(name, "fp32", make) for name, make in makers.items())


def test_a_comparison_writes_its_figures_and_says_what_it_skipped(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtimes, "all_recipes", recipes)
    arguments = ["--checkpoint", str(weights), "--runs", "2", "--out", str(tmp_path)]
    assert runtimes.main(arguments) == 0
    errors = capsys.readouterr().err
    assert "skipped dense, Missing fp32: other not installed: pip install other\n" in errors
    (path,) = tmp_path.glob("runtimes-deit_tiny-????-??-??.yaml")
    results = read_results(path)
    assert [row.name for row in results.rows[1:3]] == ["dense, Wrong fp32", "ToFe, Eager fp32"]
    dense, wrong, tofe, _ = results.rows
    assert dense.snr_db > 60 and tofe.snr_db > 60 and wrong.snr_db < 10
    assert dense.speedup == 1.0 and wrong.delegates == 3
    conditions = results.conditions
    assert conditions["skipped"]["ToFe, Broken fp32"] == "RuntimeError: no kernel"
    assert (conditions["tokens"], conditions["threads"], conditions["runs"]) == ("9,5,3", 1, 2)
    assert conditions["pinned_to"] == usable_cores()
    assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "nothing-like-it"], "--only nothing-like-it: names none of the contenders"),
        (["--counts", "9,5,3"], "--counts goes with --backbone"),
        (["--backbone", "deit_tiny"], "--backbone needs --counts"),
        (["--backbone", "deit_tiny", "--counts", "9,5"], "has 3 stages, not 2"),
        (["--checkpoint", "no_such_checkpoint"], "no_such_checkpoint"),
        (["--threads", "0"], "--threads 0: expected a positive whole number or 'all'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtimes.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and reason in line


def test_only_selects_by_part_of_the_name(weights: Path) -> None:
    nets = subjects.from_checkpoint(str(weights), None)
    both = nets.subjects((), threads=1)
    found = runtimes.select(recipes(), both, "EAGER, wrong")
    assert [recipe.runtime for _, recipe in found] == ["Eager", "Wrong"] * 2
    assert len(runtimes.select(recipes(), both, None)) == 8


def test_a_checkpoint_without_counts_is_refused(tiny_dense_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="has no token counts"):
        subjects.from_checkpoint(str(tiny_dense_checkpoint.path), None)


def test_the_dense_twin_selects_where_the_checkpoint_does(tmp_path: Path) -> None:
    model = ToFe(create_backbone("deit_tiny_patch16_224", {**TINY, "depth": 6}, stages=(1, 2, 5)))
    spec, counts = model.backbone.spec, TokenCounts((9, 5, 3))
    header = describe("moved", spec, model.backbone.preprocessing, default_classes(10), counts, {"top1": 70.5}, {})
    save(tmp_path / "moved.safetensors", model, header)
    nets = subjects.from_checkpoint(str(tmp_path / "moved.safetensors"), None)
    assert nets.dense.backbone.spec == spec == nets.tofe.backbone.spec
    assert nets.gmacs() == {
        "dense": round(gmacs(dense_macs(spec)), 4),
        "ToFe": round(gmacs(tofe_macs(spec, counts.kept)), 4),
    }
    usual = replace(spec, stages=default_stages(spec.depth))
    assert nets.gmacs()["ToFe"] < round(gmacs(tofe_macs(usual, counts.kept)), 4)


def test_a_backbone_gets_random_weights_that_are_the_same_each_time() -> None:
    first, second = (subjects.from_backbone("deit_tiny", TokenCounts((96, 49, 27)), None) for _ in range(2))
    assert first.backbone == "deit_tiny"
    assert first.weights["dense"] == "random"
    for key, value in first.dense.state_dict().items():
        assert torch.equal(value, second.dense.state_dict()[key])
    assert first.gmacs()["dense"] == pytest.approx(1.254, abs=1e-3)
    assert first.gmacs()["ToFe"] < first.gmacs()["dense"]


def test_calibration_from_a_folder_or_the_photographs(tiny_checkpoint: Checkpoint, image_folder: Path) -> None:
    spec = tiny_checkpoint.preprocessing
    given, source = subjects.calibration_inputs(image_folder, spec)
    assert len(given) == 6 and source == f"images of {image_folder.name}"
    photographs, source = subjects.calibration_inputs(None, spec)
    assert len(photographs) == 32 and "photographs" in source
    checked = subjects.check_inputs(spec)
    assert len(checked) == 8
    size = spec.image_size
    dense = np.zeros((1, 3, size, size), np.float32).strides
    assert all(array.strides == dense for array in (*given, *photographs, *checked))
    assert not any(np.array_equal(one, other) for one in checked for other in photographs)


def test_agreement_of_equal_of_near_and_of_broken_logits() -> None:
    wanted = np.array([[3.0, 4.0]], np.float32)
    equal = agreement([wanted.copy()], [wanted])
    assert equal.snr_db == float("inf") and equal.cosine == pytest.approx(1)
    # Noise of a tenth of the signal: 20 dB.
    assert agreement([wanted * np.float32(1.1)], [wanted]).snr_db == pytest.approx(20, abs=1e-4)
    broken = agreement([np.full_like(wanted, np.nan)], [wanted])
    assert broken.snr_db == -float("inf") and broken.cosine == -1


def test_the_processor_is_named_with_its_vector_extensions(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\n")
    assert processor(cpuinfo) == "Some CPU (avx2, avx512f, avx512_vnni)"
    assert processor(tmp_path / "none")
    assert version("no-such-package") is None
    assert list(versions(["torch", "no-such-package"])) == ["torch"]
