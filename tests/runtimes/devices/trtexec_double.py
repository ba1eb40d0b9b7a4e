"""A double of NVIDIA's ``trtexec``: its documented options, messages and JSON; what it computes is the golden vectors' own.

It refuses options that the real one does not have, and an engine of another version. Files beside it change what it does:
``version``; ``wait``: a build lasts until the file is gone; ``fail``: a build ends with this error; ``warmup``: times hold the
warm-up too, as before TensorRT 8.6; ``wrong``: outputs are another net's.
"""

import json
import sys
import time
from array import array
from pathlib import Path

BESIDE = Path(__file__).parent
KNOWN = {
    "onnx", "saveEngine", "loadEngine", "fp16", "int8", "iterations", "duration", "warmUp", "loadInputs",
    "exportTimes", "exportProfile", "exportOutput", "dumpProfile", "separateProfileRun",
}  # fmt: skip
STAGES = 4


def say(text: str, error: bool = False) -> None:
    print(
        f"[11/30/2026-12:00:00] [{'E' if error else 'I'}] {text}", file=sys.stderr if error else sys.stdout, flush=True
    )


def fail(*lines: str) -> None:
    for line in lines:
        say(line, error=True)
    print("&&&& FAILED TensorRT.trtexec")
    sys.exit(1)


def main() -> None:
    version = (BESIDE / "version").read_text()
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # {' '.join(sys.argv)}")
    if "--help" in sys.argv:
        return
    options = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
    if unknown := options.keys() - KNOWN:
        fail(f"Unknown option: --{sorted(unknown)[0]}")
    with (BESIDE / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    if "onnx" in options:
        assert Path(options["onnx"]).stat().st_size > 1000
        while (BESIDE / "wait").exists():
            time.sleep(0.02)
        if (BESIDE / "fail").exists():
            fail(
                (BESIDE / "fail").read_text(),
                "Engine could not be created from network",
                "Building engine failed",
                "Engine set up failed",
            )
        Path(options["saveEngine"]).write_text(f"engine of {version}")
        return
    if Path(options["loadEngine"]).read_text() != f"engine of {version}":
        fail("Error[6]: The engine plan file is not compatible with this version of TensorRT", "Engine set up failed")
    say("Engine loaded in 0.002 sec.")
    say("Engine deserialized in 0.0170 sec.")
    if "exportTimes" in options:
        Path(options["exportTimes"]).write_text(times(int(options["iterations"]), float(options["warmUp"])))
    if "exportProfile" in options:
        assert {"dumpProfile", "separateProfileRun"} <= options.keys()
        layers = [f"stage{stage}/blocks.{stage}/MatMul_1 + stage{stage}/Add_2" for stage in range(1, STAGES + 1)]
        rows = [
            f'{{ "name" : "{layer}", "timeMs" : {20 * ms}, "averageMs" : {ms}, "medianMs" : {ms}, "percentage" : 25 }}'
            for ms, layer in enumerate(layers, start=1)
        ]
        Path(options["exportProfile"]).write_text('[\n  { "count" : 20 }\n, ' + "\n, ".join(rows) + "\n]\n")
    if "exportOutput" in options:
        outputs(options["loadInputs"], Path(options["exportOutput"]))
    print("&&&& PASSED TensorRT.trtexec")


def times(iterations: int, warm_up_ms: float) -> str:
    rows = []
    first = 0 if (BESIDE / "warmup").exists() else warm_up_ms
    runs = [first + 10 * number for number in range(int((warm_up_ms - first) / 10) + iterations)]
    for start in runs:
        slow = 5 if start < warm_up_ms else 0
        rows.append(
            f'{{ "startEnqMs" : {start}, "endEnqMs" : {start + 0.5}, "startH2dMs" : {start}, "endH2dMs" : {start + 1}, '
            f'"startComputeMs" : {start}, "endComputeMs" : {start + 3}, "startD2hMs" : {start + 4}, "endD2hMs" : {start + 5}, '
            f'"h2dMs" : 1, "computeMs" : {3 + slow}, "d2hMs" : 1, "latencyMs" : {5 + slow} }}'
        )
    return "[\n  " + "\n, ".join(rows) + "\n]\n"


def outputs(inputs: str, path: Path) -> None:
    """What the golden vectors say of the input; numbers with six digits, as C++ prints them."""
    name, file = inputs.split(":")
    assert name == "image"
    given = array("f", Path(file).read_bytes())
    answers = json.loads((BESIDE / "answers.json").read_text())
    nearest = min(answers, key=lambda answer: max(abs(one - other) for one, other in zip(given, answer["head"])))
    factor = -1.0 if (BESIDE / "wrong").exists() else 1.0
    rows = []
    for tensor, shape, values in nearest["tensors"]:
        numbers = ", ".join(f"{value * (factor if tensor == 'logits' else 1):.6g}" for value in values)
        dimensions = "x".join(map(str, shape))
        rows.append(f'{{ "name" : "{tensor}"\n  , "dimensions" : "{dimensions}"\n  , "values" : [ {numbers} ]\n  }}')
    path.write_text("[\n  " + "\n, ".join(rows) + "\n]\n")


main()
