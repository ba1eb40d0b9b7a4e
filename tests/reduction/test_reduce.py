"""Whole reductions of a tiny net: what is written, that equal inputs give equal bytes, and what the report says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import write_images
from kinds import images_for, kind
from safetensors.torch import load_file
from tiny_run import to_reduce

import tofe_edge as te
from tofe_edge.budget.cost import GmacsCost
from tofe_edge.errors import InputError
from tofe_edge.model.checkpoint import load_model, read_header
from tofe_edge.model.macs import dense_macs, gmacs
from tofe_edge.reduction.reduce import reduce_net

SHARE, ELASTIC = 0.8, 0.0019


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with to_reduce(tmp_path_factory.mktemp("reduce")) as folder:
        yield folder


def reduce(folder: Path, out: str, **options: object) -> te.Reduced:
    options = {"share": SHARE, "elastic": (ELASTIC,), **options}
    return te.reduce(folder / "dense.safetensors", folder / "images", folder / out, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reduced(folder: Path) -> te.Reduced:
    return reduce(folder, "first.safetensors")


def test_the_checkpoint_says_what_it_is(reduced: te.Reduced) -> None:
    header, report = read_header(reduced.checkpoint.path), reduced.report
    assert (header.reduction, header.stages, header.accuracy) == ("merging", report.stages, None)
    assert header.token_counts is not None and header.token_counts.kept == report.outcomes[0].counts
    assert header.gmacs <= SHARE * header.dense_gmacs and header.name == "first"
    assert header.training is not None
    assert header.training["start"] == "dense.safetensors" and header.training["data"] == ["images"]
    budget = header.training["budget"]
    assert budget["reached"] == pytest.approx(header.gmacs, abs=1e-6) and budget["reached"] <= budget["target"]


def test_the_report(reduced: te.Reduced) -> None:
    record = (read_header(reduced.checkpoint.path).training or {})["reduced"]
    assert record.keys() >= {"stages", "aversion", "outcomes", "without", "fitted_to", "judged_on", "plans", "seed"}
    assert (record["fitted_to"], record["judged_on"]) == (64, 16)
    assert record["without"].keys() >= {"resemblance", "approximators", "tuning"}
    assert record["outcomes"][0]["divergence"] < record["without"]["tuning"]
    own, further = record["outcomes"]
    for outcome in (own, further):
        assert outcome.keys() >= {"target", "unit", "counts", "cost", "divergence", "agreement"}
        assert outcome["cost"] <= outcome["target"] and outcome["divergence"] >= 0 and 0 <= outcome["agreement"] <= 100
    assert (further["target"], further["unit"]) == (ELASTIC, "GMACs")
    assert sum(further["counts"]) < sum(own["counts"])


def test_matrices_and_the_blocks_before_the_first_selection_keep_their_weights(
    folder: Path, reduced: te.Reduced
) -> None:
    stored = load_file(reduced.checkpoint.path)
    dense = load_file(folder / "dense.safetensors")
    assert {key for key in stored if key.startswith("backbone.")} == {f"backbone.vit.{key}" for key in dense}
    changed = {key for key, value in dense.items() if not torch.equal(stored[f"backbone.vit.{key}"], value.half())}
    assert changed and all(dense[key].ndim == 1 for key in changed)
    assert not any(key.startswith(f"blocks.{block}.") for key in changed for block in range(reduced.report.stages[0]))
    model, images = load_model(read_header(reduced.checkpoint.path)), torch.randn(2, 3, 64, 64)
    assert torch.isfinite(model.forward_batch(images, reduced.checkpoint.token_counts).logits).all()  # type: ignore[arg-type]


def test_equal_inputs_give_equal_bytes(folder: Path, reduced: te.Reduced) -> None:
    torch.rand(3)  # what ran before does not matter
    again = reduce(folder, "second.safetensors", name="first")
    other = reduce(folder, "third.safetensors", name="first", seed=1)
    assert again.report == reduced.report
    assert again.checkpoint.sha256() == reduced.checkpoint.sha256() != other.checkpoint.sha256()


def test_images_that_cannot_be_used_are_left_out(folder: Path, tmp_path: Path) -> None:
    """A damaged one is counted in a warning."""
    images = write_images(tmp_path / "images", 40)
    (images / "0" / "0.png").write_bytes(b"no image")
    reduced = te.reduce(folder / "dense.safetensors", images, tmp_path / "a.safetensors", share=SHARE)
    warning = (reduced.checkpoint.training or {})["warnings"][-1]
    assert warning == "1 left out: not an image this program reads (first: 0/0.png)"
    assert reduced.report.fitted_to + reduced.report.judged_on == 79


def test_further_budgets_are_checked_like_the_first(folder: Path) -> None:
    with pytest.raises(InputError, match="choose a target between"):
        reduce(folder, "never.safetensors", elastic=(1e-5,))
    assert not (folder / "never.safetensors").exists()


@pytest.mark.parametrize("name", ["headless", "dinov2 with registers", "mean, norm behind it", "mean, norm before it"])
def test_nets_of_other_kinds(name: str) -> None:
    """Without a head embeddings are compared; a net whose patch tokens are read has an approximator behind the last stage."""
    dense = kind(name).backbone
    cost = GmacsCost(dense.spec, 0.85 * gmacs(dense_macs(dense.spec)))
    model, counts, report = reduce_net(dense, images_for(kind(name), 80), cost)
    headless = dense.spec.classes == 0
    assert report.measure == ("cosine distance" if headless else "nats")
    assert report.outcomes[0].divergence < report.without["tuning"]
    assert len(model.approximators) == len(model.selectors)
    assert not torch.equal(model.approximators[-1].get_parameter("fc.weight"), torch.eye(dense.spec.dim))
    assert model.forward_batch(images_for(model, 2), counts).output.shape == (2, dense.spec.classes or dense.spec.dim)
