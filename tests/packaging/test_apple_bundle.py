"""Swift packages: what is in them, for which systems, what is refused, and what a check finds, also of models that run."""

import hashlib
import plistlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Program, TinyModel, document_of
from packaged_models import packaged, pretend_model

from tofe_edge.errors import InputError
from tofe_edge.io.artifact import Method, open_artifact
from tofe_edge.io.files import fingerprint
from tofe_edge.model.checkpoint import Checkpoint
from tofe_edge.packaging.apple import PLATFORM as APPLE
from tofe_edge.packaging.apple import module_of
from tofe_edge.packaging.bundle import Bundle
from tofe_edge.packaging.contents import PackagedModel
from tofe_edge.packaging.platform import Options

CLASSIFIER = "Sources/Classifier"
PACKAGE = {"Manifest.json": b"{}", "Data/com.apple.CoreML/weights/weight.bin": b"weights"}
COREML = {"target": "coreml", "backend": "coreml", "selection": "rank"}
KINDS: dict[str, dict[str, Any]] = {
    "image": {**COREML, "io": "image", "deployment_target": "iOS18"},
    "tensor": {**COREML, "deployment_target": "iOS16", "further_methods": [], "precision": "fp16"},
    "xnnpack": {"batch": 2, "fallback_ops": {"topk": 3, "quantize_per_tensor": 1}},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> PackagedModel:
    return packaged(pretend_model(tiny_checkpoint, tmp_path_factory.mktemp("model"), "Tiny-model.1.pte"))


def as_kind(plain: PackagedModel, **changes: Any) -> PackagedModel:
    """The model with another manifest; of a Core ML model the content is a package."""
    content = PACKAGE if changes.get("target") == "coreml" else plain.content
    found = fingerprint(content)
    manifest = replace(plain.manifest, sha256=found.sha256, size_bytes=found.size_bytes, **changes)
    model = replace(plain, content=content, golden=replace(plain.golden, artifact_sha256=found.sha256))
    return replace(model, manifest=replace(manifest, artifact=model.file_name))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(plain: PackagedModel, kind: str) -> PackagedModel:
    return as_kind(plain, **KINDS[kind])


@pytest.fixture(scope="module")
def bundle(model: PackagedModel) -> Bundle:
    return APPLE.build(model, Options())


def text(bundle: Bundle, name: str) -> str:
    return bundle.files[name].data.decode()


def library(bundle: Bundle) -> str:
    names = [name for name in bundle.files if name.startswith(CLASSIFIER) and name.endswith(".swift")]
    return "\n".join(text(bundle, name) for name in names)


def test_every_swift_file_parses(bundle: Bundle) -> None:
    parser = need_parser()
    assert syntax_errors(parser, b"let x = = 3")
    sources = {name: file.data for name, file in bundle.files.items() if name.endswith(".swift")}
    assert len(sources) >= 17
    assert {name: errors for name, data in sources.items() if (errors := syntax_errors(parser, data))} == {}


def test_no_key_of_a_template_is_left(bundle: Bundle) -> None:
    texts = {name: file.data for name, file in bundle.files.items() if name.endswith((".swift", ".md", ".xcprivacy"))}
    assert [name for name, data in texts.items() if re.search(rb"@[A-Z][A-Z0-9_]*@", data)] == []


def test_the_models_files_are_resources_that_are_copied_whole(bundle: Bundle, model: PackagedModel) -> None:
    folder = f"{CLASSIFIER}/Model/"
    found = {name.removeprefix(folder): file for name, file in bundle.files.items() if name.startswith(folder)}
    assert found == model.files()
    assert sum(name.endswith(".png") for name in found) == 4
    assert 'resources: [.copy("Model"), .process("PrivacyInfo.xcprivacy")]' in text(bundle, "Package.swift")


def test_the_systems_are_those_that_run_the_model(bundle: Bundle, kind: str) -> None:
    wanted = {"image": ("18.0", "15.0"), "tensor": ("16.0", "13.0"), "xnnpack": ("17.0", "14.0")}
    ios, macos = wanted[kind]
    assert f'platforms: [.iOS("{ios}"), .macOS("{macos}")]' in text(bundle, "Package.swift")


def test_checksums_in_the_code_are_those_of_the_files(bundle: Bundle, model: PackagedModel) -> None:
    facts = text(bundle, f"{CLASSIFIER}/Facts.swift")
    sums = dict(re.findall(r'^        "([^"]+)": "([0-9a-f]{64})",$', facts, re.MULTILINE))
    assert len(sums) == 6
    assert sums == {name: hashlib.sha256(model.files()[name].data).hexdigest() for name in sums}
    assert f'static let sha256 = "{fingerprint(model.content).sha256}"' in facts


def test_budgets_are_cases_of_an_enum(bundle: Bundle, model: PackagedModel) -> None:
    budgets = text(bundle, f"{CLASSIFIER}/TofeBudget.swift")
    cases = re.findall(r'^    case (\w+) = "(\w+)"$', budgets, re.MULTILINE)
    assert cases == [(name, name) for name in model.manifest.methods]
    assert len(cases) == 1 + len(model.manifest.further_methods)
    for method in model.manifest.methods.values():
        assert f"case .{method.name}: return {method.token_counts}" in budgets
        assert f"case .{method.name}: return {float(method.gmacs)!r}" in budgets


def test_only_executorch_programs_depend_on_executorch(bundle: Bundle, kind: str) -> None:
    manifest = text(bundle, "Package.swift")
    products = re.findall(r'\.product\(name: "(\w+)", package: "executorch"\)', manifest)
    if kind in ("image", "tensor"):
        assert "executorch" not in manifest and "LICENSE-executorch" not in bundle.files
        return
    assert '.package(url: "https://github.com/pytorch/executorch.git", branch: "swiftpm-1.5.1")' in manifest
    assert products == ["executorch", "backend_xnnpack", "kernels_optimized", "kernels_quantized"]
    assert "LICENSE-executorch" in bundle.files


def test_no_api_that_needs_a_reason_is_used(bundle: Bundle) -> None:
    sources = library(bundle)
    # Times of files, free space, time since the start, the keyboard, stored settings; as Apple lists them.
    apis = r"creationDate|[mM]odificationDate|\bf?stat\(|getattrlist|AvailableCapacity|systemFreeSize|systemSize"
    apis += r"|statv?fs|systemUptime|mach_absolute_time|activeInputModes|UserDefaults"
    assert re.findall(apis, sources) == []


def test_the_same_model_gives_the_same_files(bundle: Bundle, model: PackagedModel) -> None:
    assert APPLE.build(model, Options()) == bundle


def test_names_of_classes_and_backbones_stay_out_of_the_code(plain: PackagedModel) -> None:
    names = ['"; fatalError("x'] * 10
    hostile = as_kind(plain, class_names=names, backbone='x\n"); import Evil', checkpoint="\\(evil)", profile='"evil')
    bundle = APPLE.build(hostile, Options())
    swift = b"".join(file.data for name, file in bundle.files.items() if name.endswith(".swift"))
    assert b"fatalError" not in swift and b"Evil" not in swift and b"evil" not in swift
    assert "\nimport Evil" not in text(bundle, "README.md") and 'x\n"' not in text(bundle, "README.md")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"target": "tflite", "backend": "gpu"}, "does not run on Apple;"),
        ({"backend": "coreml"}, "does not run on Apple;"),
        ({**COREML, "deployment_target": None}, "deployment target 'none' is not one of"),
        ({**COREML, "deployment_target": 'iOS17"),'}, "is not one of iOS16"),
        ({**COREML, "deployment_target": "iOS17"}, "several budgets, which need iOS18, not iOS17"),
        ({"versions": {}}, "of an unknown version"),
        ({"versions": {"executorch": '1.5.1"); evil('}}, "no release for iOS"),
        ({"further_methods": [Method("default", [5, 3, 2], 0.1, 1, {}, 0)]}, "method 'default' cannot name a case"),
        ({"further_methods": [Method('x"\n', [5, 3, 2], 0.1, 1, {}, 0)]}, "cannot name a case"),
        ({"further_methods": [Method("forwarD", [5, 3, 2], 0.1, 1, {}, 0)]}, "differ in case alone"),
    ],
)
def test_models_that_do_not_fit_are_refused(plain: PackagedModel, changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=re.escape(wanted)):
        APPLE.build(as_kind(plain, **changes), Options())


@pytest.mark.parametrize("options", [Options(source=True), Options(kotlinc=Path("kotlinc")), Options(arch="aarch64")])
def test_options_of_other_platforms_are_refused(options: Options) -> None:
    with pytest.raises(InputError, match=r"^--(source|kotlinc|arch): is not used with --platform apple"):
        APPLE.check(options)


NO_MODULE = ("", "flowers", "Two Words", "Blüte", 'X"', "X" * 81, "A.b", "A\n")
TAKEN = (*("CoreML", "Coreml", "Network", "Photos", "AVFoundation", "Combine", "Testing", "Data", "Task", "Tensor"),)


@pytest.mark.parametrize(
    ("name", "message"),
    [(name, "cannot name a Swift module") for name in NO_MODULE] + [(name, "is the name of a module or type") for name in TAKEN],
)  # fmt: skip
def test_names_that_are_no_module_or_are_the_systems_are_refused(plain: PackagedModel, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        APPLE.build(plain, Options(package_name=name))


def test_no_module_has_the_name_of_a_type_or_module_in_it(bundle: Bundle, plain: PackagedModel) -> None:
    sources = library(bundle)
    types = set(re.findall(r"^(?:public |final )*(?:actor|class|enum|struct) (\w+)", sources, re.MULTILINE))
    modules = set(re.findall(r"^import (\w+)$", sources, re.MULTILINE))
    assert {"Network", "Checksum", "TofeClassifier"} < types and "CoreGraphics" in modules
    for name in types | modules:
        with pytest.raises(InputError, match="is the name of a module or type"):
            module_of(plain, name)


def test_a_module_is_named_by_the_user_or_after_the_model(plain: PackagedModel) -> None:
    assert module_of(plain, "FlowerModel") == "FlowerModel"
    assert module_of(plain, None) == "TinyModel1Model"
    assert module_of(replace(plain, name="core_ml"), None) == "CoreMlModel"
    assert 'name: "FlowerModel"' in text(APPLE.build(plain, Options(package_name="FlowerModel")), "Package.swift")


def test_the_longest_name_fits(plain: PackagedModel) -> None:
    model = as_kind(replace(plain, name="a" * 64), **KINDS["image"])
    assert APPLE.build(model, Options()).name == "a" * 64 + "-apple"


def test_nothing_is_tracked(bundle: Bundle) -> None:
    privacy = plistlib.loads(bundle.files[f"{CLASSIFIER}/PrivacyInfo.xcprivacy"].data)
    assert privacy.pop("NSPrivacyTracking") is False
    keys = {"NSPrivacyTrackingDomains", "NSPrivacyCollectedDataTypes", "NSPrivacyAccessedAPITypes"}
    assert privacy.keys() == keys and not any(privacy.values())


_INSTALL = "pip install tree-sitter tree-sitter-swift"


def need_parser() -> Any:
    """A parser of Swift; the test is skipped without it."""
    try:
        import tree_sitter
        import tree_sitter_swift
    except ImportError:
        pytest.skip(f"needs a parser of Swift: {_INSTALL}")
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))


def syntax_errors(parser: Any, source: bytes) -> list[str]:
    """Where the source is no Swift: line and text."""
    found, open_nodes = [], [parser.parse(source).root_node]
    while open_nodes:
        node = open_nodes.pop()
        if node.is_error or node.is_missing:
            found.append(f"line {node.start_point[0] + 1}: {node.text[:60]!r}")
        open_nodes += node.children
    return found


RUNNING = {
    "coreml": ("--target", "coreml", "--elastic", "0.0016", "--option", "deployment_target=iOS18"),
    "executorch": ("--elastic", "0.0016", "--batch", "2"),
}


@pytest.mark.parametrize("kind", RUNNING)
def test_the_model_inside_is_whole_and_passes(
    kind: str, tiny_model: TinyModel, tmp_path: Path, program: Program
) -> None:
    model = tiny_model(*RUNNING[kind])
    assert program("package", model, "--platform", "apple", "--out", tmp_path)[0] == 0
    (bundle,) = tmp_path.iterdir()
    found = document_of(program, "package", "--check", bundle)
    assert found["passed"] and found["platform"] == "apple" and found["self_test"]["ran"]
    manifest = open_artifact(model).manifest
    assert list(found["self_test"]["methods"]) == list(manifest.methods)
    assert all(one["passed"] for one in found["self_test"]["methods"].values())
    assert open_artifact(bundle / "Sources" / "Classifier" / "Model" / model.name).manifest == manifest
