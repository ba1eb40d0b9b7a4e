"""Packages by the real converter: what they compute, and what they say of themselves."""

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from tiny_exports import OTHER, OTHER_COUNTS, images
from tiny_packages import ABOUT, LABELS, made, pixels, two_functions

from tofe_edge.converters.coreml import unique_labels
from tofe_edge.errors import InputError
from tofe_edge.evaluation.parity import snr_db
from tofe_edge.runtimes.mil import Program

QUANTIZED = {
    "weights": "constexpr_affine_dequantize",
    "static": "constexpr_affine_dequantize",
    "pal6": "constexpr_lut_to_dense",
    "pal4": "constexpr_lut_to_dense",
}


def outputs(program: Program, image: torch.Tensor) -> tuple[np.ndarray, list[list[int]]]:
    """Logits and token orders."""
    found = program.run({"image": image.numpy()})
    orders = [
        np.rint(np.asarray(found[name])).astype(int).reshape(-1).tolist() for name in sorted(found) if "Order" in name
    ]
    return np.asarray(found["logits"], np.float32), orders


def wanted(graph: torch.nn.Module, image: torch.Tensor) -> tuple[np.ndarray, list[list[int]]]:
    with torch.no_grad():
        logits, *orders = graph(image)
    return logits.numpy(), [order.view(-1).round().long().tolist() for order in orders]


def operators(program: Program) -> Counter[str]:
    return Counter(operation.type for operation in program.operations if operation.type != "const")


@pytest.mark.parametrize("name", ["deit", "lvvit", "deit_tiny_distilled_patch16_224"])
@pytest.mark.parametrize("kind", ["fp32", "fp32,topk"])
def test_an_fp32_package_computes_what_its_graph_computes(kind: str, name: str) -> None:
    package = made(kind, name)
    program = package.program()
    for image in images(3, seed=5):
        logits, orders = outputs(program, image)
        expected, expected_orders = wanted(package.graph, image)
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
        assert orders == expected_orders


# Scales are stored in half precision, so a quantized package is not its graph to the last bit.
@pytest.mark.parametrize(
    ("kind", "least_snr"), [("fp16", 45), ("weights", 45), ("pal6", 45), ("pal4", 45), ("static", 25)]
)
def test_a_package_computes_what_its_quantized_graph_computes(kind: str, least_snr: float) -> None:
    package = made(kind)
    image = images(1, seed=5)[0]
    logits, orders = outputs(package.program(), image)
    expected, expected_orders = wanted(package.graph, image)
    assert snr_db(expected, logits) > least_snr
    assert [sorted(order[:9]) for order in orders[:1]] == [sorted(order[:9]) for order in expected_orders[:1]]


@pytest.mark.parametrize("kind", QUANTIZED)
def test_every_layer_but_the_selectors_is_stored_quantized(kind: str) -> None:
    program = made(kind).program()
    found = operators(program)
    layers = found["linear"] + found["conv"]
    selectors = 3 * 3
    # A palette of few values can be stored without loss wherever there are few: in a selector's last layer too.
    assert layers - selectors <= found[QUANTIZED[kind]] <= layers
    assert (found["quantize"], found["dequantize"]) == ((layers - selectors,) * 2 if kind == "static" else (0, 0))


def test_half_precision_halves_the_weights_and_int8_those_again() -> None:
    sizes = [sum(operation.weight_bytes for operation in made(kind).program().operations if operation.type in ("linear", "conv"))
             for kind in ("fp32", "fp16", "weights")]  # fmt: skip
    assert sizes[1] < 0.55 * sizes[0]
    assert sizes[2] < 0.75 * sizes[1], "the tiny net's selectors are a large part of it"


def test_selection_by_ranks_has_no_operator_that_moves_by_index() -> None:
    by_rank, by_topk = (operators(made(kind).program()) for kind in ("fp32", "fp32,topk"))
    indexing = {"topk", "gather", "gather_along_axis", "scatter", "argsort"}
    assert not indexing & by_rank.keys()
    assert by_topk["topk"] == by_topk["gather"] == 3


def test_norms_and_attention_are_single_operators() -> None:
    found = operators(made("fp32").program())
    assert found["layer_norm"] == 2 * 4 + 3 + 1
    assert found["softmax"] == 4
    assert found["conv"] == 1
    assert not {"rsqrt", "reduce_mean", "real_div"} & found.keys()
    assert sum(found.values()) <= 167


def test_float32_selectors_score_in_single_precision() -> None:
    def types(kind: str) -> set[str]:
        program = made(kind).program()
        return {program.operations[index].outputs[0].dtype for index in _scores(program)}

    def _scores(program: Program) -> list[int]:
        """The comparisons' inputs are the scores."""
        compared = {
            name for operation in program.operations if operation.type == "greater" for name in operation.inputs["x"]
        }
        return [index for index, operation in enumerate(program.operations) if operation.name in compared]

    assert types("fp16") == {"fp16"}
    assert types("fp16,fp32_selectors") == {"fp32"}


def test_an_image_classifier_says_the_likeliest_class() -> None:
    package = made("weights,image")
    program = package.program()
    names = {feature.name: feature.kind for feature in (*program.function.inputs, *program.function.outputs)}
    assert names == {
        "image": "image", "classLabel": "text", "classLabel_probs": "dictionary", "logits": "tensor",
        "tokenOrder1": "tensor", "tokenOrder2": "tensor", "tokenOrder3": "tensor",
    }  # fmt: skip
    found = program.run({"image": pixels(2).numpy()})
    probabilities = found["classLabel_probs"]
    assert isinstance(probabilities, dict)
    assert list(probabilities) == list(LABELS)
    assert sum(probabilities.values()) == pytest.approx(1, abs=2e-3)
    assert found["classLabel"] == max(probabilities, key=lambda label: probabilities[label])
    logits, _ = wanted(package.graph, pixels(2))
    assert found["classLabel"] == LABELS[int(logits.argmax())]


def test_an_image_may_come_as_a_picture() -> None:
    program = made("weights,image").program()
    picture = pixels(2).numpy()[0].transpose(1, 2, 0).astype(np.uint8)
    assert outputs_equal(program.run({"image": picture}), program.run({"image": pixels(2).numpy()}))


def outputs_equal(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return all(
        np.array_equal(np.asarray(one[name]), np.asarray(other[name])) for name in one if name != "classLabel_probs"
    )


def test_classes_of_one_name_get_their_id() -> None:
    assert unique_labels(["crane", "dog", "crane"], ["n1", "n2", "n3"]) == ("crane (n1)", "dog", "crane (n3)")


@pytest.mark.parametrize(
    ("names", "identifiers"),
    [(["a", "a", "a (1)"], ["1", "2", "1"]), (["a", "a"], ["1", "1"]), (["a", ""], ["1", "2"])],
)
def test_classes_of_one_name_and_id_are_refused(names: list[str], identifiers: list[str]) -> None:
    with pytest.raises(InputError, match="is empty or occurs twice"):
        unique_labels(names, identifiers)


@pytest.mark.parametrize("kind", ["fp16", "weights"])
def test_tensors_go_in_as_float32(kind: str) -> None:
    (given,) = made(kind).program().function.inputs
    assert given.dtype == "fp32"


@pytest.mark.parametrize("kind", ["weights,image", "fp16"])
def test_a_package_describes_itself(kind: str) -> None:
    package = made(kind).package
    metadata = package.metadata
    assert (metadata.author, metadata.license, metadata.version) == ("An author", "Some licence", "1.2")
    assert metadata.short_description == ABOUT.title
    assert metadata.user_defined["tofe_edge.note"] == "for tests"
    assert not [key for key in metadata.user_defined if "date" in key]
    assert ("com.apple.coreml.model.preview.type" in metadata.user_defined) == ("image" in kind)
    description = package.spec.description
    assert all(feature.shortDescription for feature in (*description.input, *description.output))


@pytest.mark.parametrize(("target", "version"), [("iOS16", 7), ("iOS17", 8), ("iOS18", 9), ("iOS26", 10)])
def test_the_specification_fits_the_deployment_target(target: str, version: int) -> None:
    # int8 weights need iOS 17: coremltools 9.0 has no int8 zero points before it.
    kind = "fp16" if target == "iOS16" else "weights"
    package = two_functions().package if target == "iOS18" else made(kind, deployment_target=target).package
    assert package.specification_version == version


@pytest.mark.parametrize("kind", ["weights,image", "two"])
def test_coremltools_opens_it(kind: str) -> None:
    import coremltools

    path = str((two_functions() if kind == "two" else made(kind)).path)
    assert coremltools.utils.load_spec(path).specificationVersion >= 8
    model = coremltools.models.MLModel(path, skip_model_load=True)
    assert model.weights_dir is not None


def test_functions_share_their_weights() -> None:
    both, alone = two_functions().package, made("weights").package
    assert both.default_function == "main"
    assert set(both.functions) == {"main", OTHER}
    sizes = [
        len(content)
        for made_ in (two_functions(), made("weights"))
        for path, content in _files(made_.lowered.content).items()
        if "weight" in path
    ]
    # What differs: the reshaped constants of another number of tokens, none of them a weight.
    assert sizes[0] <= 1.05 * sizes[1]
    assert alone.default_function == "main"


def _files(content: object) -> dict[str, bytes]:
    assert isinstance(content, dict)
    return content


def test_each_function_has_its_own_budget() -> None:
    package = two_functions()
    image = images(1, seed=5)[0]
    for function, graph in (("main", package.graph), (OTHER, package.graph.with_counts(OTHER_COUNTS))):
        logits, orders = outputs(package.program(function, "fp32"), image)
        expected, expected_orders = wanted(graph, image)
        assert snr_db(expected, logits) > 45
        assert [len(order) for order in orders] == [len(order) for order in expected_orders]


def test_identifiers_are_such_as_core_ml_writes() -> None:
    manifest = _files(made("fp16").lowered.content)["Manifest.json"].decode()
    identifiers = re.findall(r'"([0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12})"', manifest)
    assert len(identifiers) == 3
    assert len(set(identifiers)) == 2
