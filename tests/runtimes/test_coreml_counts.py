"""Counts of Core ML programs against the formula of :mod:`tofe_edge.model.macs` and by hand."""

from collections.abc import Mapping

import pytest
from conftest import TINY, TinyModel

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Artifact, Manifest, open_artifact
from tofe_edge.model.backbones import Backbone, create_backbone
from tofe_edge.model.macs import block_macs, tofe_macs
from tofe_edge.runtimes.breakdown import stage_names
from tofe_edge.runtimes.coreml_checks import function_name
from tofe_edge.runtimes.coreml_counts import by_operator, by_stage, costs, in_total, macs_of
from tofe_edge.runtimes.mil import Feature, Operation, Program, Result, load_program, open_package

Names = Mapping[str, tuple[str, ...]]

IMAGE = Feature("image", "image", "fp32", (1, 3, 64, 64))


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
    options = ("--elastic", "0.0016", "--option", "deployment_target=iOS18")
    return open_artifact(tiny_model("--target", "coreml", "--precision", "fp16", *options))


@pytest.fixture(scope="module")
def by_topk(tiny_model: TinyModel) -> Artifact:
    """One budget in single precision, tensors in and out."""
    return open_artifact(tiny_model("--target", "coreml", "--option", "io=tensor", "--selection", "topk"))


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
def test_macs_are_those_of_the_formula_but_for_known_differences(which: str, request: pytest.FixtureRequest) -> None:
    artifact: Artifact = request.getfixturevalue(which)
    spec = create_backbone(artifact.manifest.backbone, TINY).spec
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
