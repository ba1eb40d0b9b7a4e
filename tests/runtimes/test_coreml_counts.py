"""Counts of Core ML programs against the formula of :mod:`tofe_edge.model.macs` and by hand; the forecast's rules one by one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from conftest import TinyModel

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Artifact, Manifest, open_artifact
from tofe_edge.model.backbones import Backbone, create_host
from tofe_edge.model.macs import block_macs, tofe_macs
from tofe_edge.runtimes.coreml_forecast import RULES, by_operator, by_stage, costs, forecast, in_total, macs_of
from tofe_edge.runtimes.coreml_names import function_name
from tofe_edge.runtimes.etdump import stage_names
from tofe_edge.runtimes.mil import Feature, Operation, Program, Result, load_program, open_package

Names = Mapping[str, tuple[str, ...]]

IMAGE = Feature("image", "image", "fp32", (1, 3, 64, 64), "RGB")


def operation(
    kind: str,
    shape: tuple[int, ...] = (1,),
    inputs: Names | None = None,
    *,
    name: str = "",
    dtype: str = "fp16",
    weight_bytes: int = 0,
    **parameters: object,
) -> Operation:
    """One operation with one result."""
    constant = kind == "const" or kind.startswith("constexpr_")
    result = Result(name or f"{kind}_0", dtype, shape)
    return Operation(kind, result.name, inputs or {}, parameters, (result,), weight_bytes, constant)


@pytest.fixture(scope="module")
def by_rank(tiny_model: TinyModel) -> Artifact:
    """Two budgets in half precision, classifying images."""
    options = ("--elastic", "0.0016", "--deployment-target", "iOS18")
    return open_artifact(tiny_model("--target", "coreml", "--precision", "fp16", *options))


@pytest.fixture(scope="module")
def by_topk(tiny_model: TinyModel) -> Artifact:
    """One budget in single precision, tensors in and out."""
    return open_artifact(tiny_model("--target", "coreml", "--io", "tensor", "--selection", "topk"))


def programs(artifact: Artifact) -> dict[str, Program]:
    opened = open_package(artifact.path)
    return {name: load_program(opened, function_name(name)) for name in artifact.manifest.methods}


def macs_of_graph(spec: Backbone, manifest: Manifest, kept: list[int]) -> int:
    """The formula, and the three things in which a graph differs from it."""
    total, dim = spec.patch_tokens, spec.dim
    # Selection by ranks moves tokens and their numbers by a product; but for the last one, frozen tokens too.
    rows = [*([total] * (len(kept) - 1)), kept[-1]]
    moved = sum(row * total * (dim + 1) for row in rows) if manifest.selection == "rank" else 0
    # The head reads the class token alone: in the last block it alone has a query, a projection and an MLP.
    last = kept[-1] + 1
    needed = 3 * last * dim**2 + 2 * last * dim + dim**2 + 2 * dim * spec.mlp_hidden
    saved = block_macs(last, dim, spec.mlp_hidden) - needed
    # One score a token; the formula has the paper's two, of which only the difference decides.
    scores = len(kept) * total * (dim // 4)
    return int(tofe_macs(spec, kept) + moved - saved - scores)


@pytest.mark.parametrize("which", ["by_rank", "by_topk"])
def test_macs_are_those_of_the_formula_but_for_what_the_graph_does_otherwise(
    which: str, request: pytest.FixtureRequest, tiny_overrides: dict[str, int]
) -> None:
    artifact: Artifact = request.getfixturevalue(which)
    spec = create_host(artifact.manifest.backbone, tiny_overrides).spec
    for name, program in programs(artifact).items():
        kept = artifact.manifest.method(name).token_counts
        assert kept is not None
        found = costs(program.operations, program.function.inputs)
        assert in_total(found).macs == macs_of_graph(spec, artifact.manifest, kept)


@pytest.mark.parametrize("which", ["by_rank", "by_topk"])
def test_operators_and_stages_add_up_and_weights_are_counted_once(which: str, request: pytest.FixtureRequest) -> None:
    artifact: Artifact = request.getfixturevalue(which)
    program = programs(artifact)["forward"]
    found = costs(program.operations, program.function.inputs)
    total, names = in_total(found), stage_names(artifact.manifest)
    stages = by_stage(found, names)
    assert [share.name for share in stages] == names
    for shares in (stages, by_operator(found)):
        assert sum(share.macs for share in shares) == total.macs
        assert sum(share.count for share in shares) == total.count == len(found)
        assert sum(share.weight_bytes for share in shares) == total.weight_bytes
    (stored,) = artifact.path.rglob("weight.bin")
    # Between tensors there are headers and gaps; other budgets store little of their own.
    assert 0.7 * stored.stat().st_size < total.weight_bytes <= stored.stat().st_size


def test_ranks_in_half_precision_are_forecast_to_stay(by_rank: Artifact) -> None:
    for program in programs(by_rank).values():
        found = costs(program.operations, program.function.inputs)
        assert [departure.operator for departure in forecast(found, program.function.inputs)] == ["classify"]


def test_topk_and_single_precision_are_forecast_to_leave(by_topk: Artifact) -> None:
    program = programs(by_topk)["forward"]
    found = costs(program.operations, program.function.inputs)
    leaving = forecast(found, program.function.inputs)
    counts = {departure.operator: departure.count for departure in leaving}
    assert counts["topk"] == counts["gather"] == 3
    assert sum(departure.macs for departure in leaving) == in_total(found).macs > 0
    assert all(departure.reason and departure.source for departure in leaving)


A, B = {"x": ("a",), "y": ("b",)}, {"x": ("a",), "weight": ("b",)}


@pytest.mark.parametrize(
    ("given", "left", "right", "expected"),
    [
        (operation("linear", (1, 7, 5), B), (1, 7, 4), (5, 4), 7 * 5 * 4),
        (operation("conv", (1, 6, 8, 8), B, groups=2), (1, 4, 16, 16), (6, 2, 3, 3), 6 * 64 * 2 * 9),
        (operation("matmul", (2, 3, 5), A), (2, 3, 4), (2, 4, 5), 2 * 3 * 5 * 4),
        (operation("matmul", (2, 3, 5), A, transpose_x=True, transpose_y=False), (2, 4, 3), (4, 5), 2 * 3 * 5 * 4),
        (operation("matmul", (), A), (4,), (4,), 4),
        (operation("einsum", (1, 6, 2, 5), {"values": ("a", "b")}, equation="bchw,bwhu->bchu"), (1, 6, 2, 3), (1, 3, 2, 5), 6 * 2 * 3 * 5),
        (operation("scaled_dot_product_attention", (2, 3, 7), {"key": ("a",), "value": ("b",)}), (2, 5, 4), (2, 5, 7), 2 * 3 * 5 * (4 + 7)),
        (operation("softmax", (2, 3), {"x": ("a",)}), (2, 3), (), 0),
    ],
    ids=lambda value: value.type if isinstance(value, Operation) else "",
)  # fmt: skip
def test_macs_by_hand(given: Operation, left: tuple[int, ...], right: tuple[int, ...], expected: int) -> None:
    assert macs_of(given, {"a": left, "b": right}) == expected


@pytest.mark.parametrize("shape", [None, (1, -1, 4)])
def test_an_unknown_shape_is_refused_not_guessed(shape: tuple[int, ...] | None) -> None:
    shapes = {} if shape is None else {"a": shape}
    with pytest.raises(InputError, match=r"linear 'linear_0': the shape of x is not known; convert"):
        macs_of(operation("linear", (1, 7, 5), {"x": ("a",)}), shapes)


def test_a_shared_weight_counts_for_its_first_user_with_all_that_it_is_made_of() -> None:
    codes = operation("const", (4,), name="codes", weight_bytes=100)
    scales = operation("const", (4,), name="scales", weight_bytes=8)
    made_of = {"data": ("codes",), "scale": ("scales",)}
    weight = operation("constexpr_affine_dequantize", (5, 4), made_of, name="weight", weight_bytes=111)
    first = operation("linear", (1, 5), {"x": ("image",), "weight": ("weight",)}, name="first", weight_bytes=111)
    bias = operation("const", (5,), name="bias", weight_bytes=10)
    inputs = {"x": ("first",), "weight": ("weight",), "bias": ("bias",)}
    second = operation("linear", (1, 5), inputs, name="second", weight_bytes=121)
    found = costs([codes, scales, weight, first, bias, second], [Feature("image", "tensor", "fp16", (1, 4))])
    assert [cost.weight_bytes for cost in found] == [111, 10]


def test_stages_follow_from_what_a_selection_needs_not_from_the_order_of_the_file() -> None:
    chain = [
        operation("relu", (4,), {"x": ("image",)}, name="stem"),
        operation("relu", (4,), {"x": ("moved",)}, name="later"),
        operation("relu", (4,), {"x": ("stem",)}, name="tokenOrder1"),
        operation("relu", (4,), {"x": ("stem",)}, name="moved"),
        operation("relu", (4,), {"x": ("later",)}, name="tokenOrder2"),
        operation("relu", (4,), {"x": ("later",)}, name="head"),
    ]
    assert [cost.stage for cost in costs(chain, [IMAGE])] == [0, 1, 0, 1, 1, 2]
    assert [share.count for share in by_stage(costs(chain[:1]), ["all"])] == [1]


HALF, WHOLE = {"x": ("half",)}, {"x": ("whole",)}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (operation("topk", (1, 5), HALF), "planned it on the CPU"),
        (operation("gather", (1, 5), HALF), "reported"),
        (operation("gather_along_axis", (1, 5), HALF), "behind topk"),
        (operation("argsort", (1, 5), HALF), "sorts"),
        (operation("scatter_nd", (1, 5), HALF), "no such operator"),
        (operation("one_hot", (1, 5), HALF), "no such operator"),
        (operation("tile", (1, 5), HALF, reps=[1, 5]), "repeats"),
        (operation("tile", (1, 5), HALF), "repeats"),
        (operation("tile", (1, 8), HALF, reps=[1, 4]), None),
        (operation("add", (1, 5), HALF), None),
        (operation("add", (1, 5), HALF, dtype="fp32"), "float32"),
        (operation("greater", (1, 5), {"x": ("image",)}, dtype="bool"), "float32"),
        (operation("cast", (1, 5), {"x": ("image",)}), None),
        (operation("cast", (1, 5), HALF, dtype="int32"), "whole numbers"),
        (operation("reshape", (1, 5), WHOLE), "whole numbers"),
        (operation("transpose", (1, 2, 3, 4, 5), HALF), "five axes"),
        (operation("transpose", (1, 2, 3, 4), HALF), None),
        (operation("quantize", (1, 5), HALF, dtype="int8"), None),
    ],
)
def test_each_rule(given: Operation, why: str | None) -> None:
    half = operation("relu", (1, 5), {"x": ("half_input",)}, name="half")
    whole = operation("identity", (1, 5), {"x": ("half_input",)}, name="whole", dtype="int32")
    # A constant of whole numbers, such as a shape, is no reason.
    shape = operation("const", (2,), name="shape", dtype="int32")
    given = Operation(
        given.type, given.name, {**given.inputs, "shape": ("shape",)}, given.parameters, given.outputs, 0, False
    )
    found = costs([shape, half, whole, given], [IMAGE])
    leaving = [departure for departure in forecast(found, [IMAGE]) if departure.operator == given.type]
    assert [why is not None and why in departure.reason for departure in leaving] == [True] * (why is not None)


def test_one_operation_leaves_for_one_reason_and_every_rule_names_its_source() -> None:
    found = costs([operation("topk", (1, 2, 3, 4, 5), {"x": ("image",)}, dtype="fp32")], [IMAGE])
    (departure,) = forecast(found, [IMAGE])
    assert departure.operator == "topk" and departure.count == 1
    for rule in RULES:
        assert rule.reason and rule.source and "\n" not in rule.reason + rule.source
