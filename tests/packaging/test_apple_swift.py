"""The packaged Swift library, built by SwiftPM: its own tests, and those of an app, on doubles of Apple's frameworks."""

import re

import pytest
from conftest import TinyModel
from swift_bench import SwiftBench, compile_doubles, make_swift_bench, need_swift

from tofe_edge.cli import main

pytestmark = pytest.mark.toolchain

MODELS = {
    "image": ("--target", "coreml", "--elastic", "0.0016", "--option", "deployment_target=iOS18"),
    "tensor": ("--target", "coreml", "--option", "io=tensor", "--selection", "topk"),
    "executorch": ("--elastic", "0.0016", "--batch", "2"),
}
"""Both inputs of Core ML, and batches of ExecuTorch; two budgets where they can be."""


@pytest.fixture(scope="module")
def doubles(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return compile_doubles(need_swift(), tmp_path_factory.mktemp("doubles"))


@pytest.fixture(scope="module", params=MODELS)
def bench(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: TinyModel,
    doubles: tuple[str, ...],
) -> SwiftBench:
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_model(*MODELS[request.param])
    assert main(["package", str(model), "--platform", "apple", "--out", str(folder / "bundle")]) == 0
    (bundle,) = (folder / "bundle").iterdir()
    return make_swift_bench(need_swift(), doubles, bundle, model, folder)


def test_it_builds_without_warnings_and_passes_its_tests_and_an_apps(bench: SwiftBench) -> None:
    done = bench.test()
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "warning:" not in output
    tests = {"ResampleTests", "PreprocessingTests", "ScoresTests", "GoldenTests", "AppTests", "ChecksumTests"}
    assert tests <= set(re.findall(r"Test Suite '(\w+)' passed", output))


def test_its_tests_fail_where_the_device_computes_otherwise(bench: SwiftBench) -> None:
    for logits in (*bench.recorded.rglob("logits.f32"), *bench.recorded.rglob("0.f32")):
        content = logits.read_bytes()
        logits.write_bytes(content[4:] + content[:4])
    done = bench.test("GoldenTests")
    assert done.returncode != 0
    assert re.search(r"forward: FAILED: logits SNR -?[0-9.]+ dB is under 60 dB", done.stdout + done.stderr)
