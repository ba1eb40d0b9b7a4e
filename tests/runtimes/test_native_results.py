"""A runner's answer is believed if it is of what was asked, and every figure is one that a machine can have."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import shell_script

from tofe_edge.errors import DeviceError
from tofe_edge.runtimes.native_runner import SELF_TEST_FAILED, MethodVerdict, read_result, self_test_alone
from tofe_edge.runtimes.timing import TimingRequest

ASKED = TimingRequest(runs=2, threads=4)
STATE = {"t_s": -0.01, "khz": {"cpu0": 2_400_000}, "celsius": {"cpu": -3.5}}
ANSWER: dict[str, Any] = {
    "method": "forward", "threads": 4, "load_ms": 5.5, "cpu_ms": 9.0, "planned_bytes": 4096, "peak_rss_bytes": 8192,
    "machine": {"arch": "aarch64", "cores_online": 4, "cpu_model": "Cortex-A76"}, "samples_ms": [3.5, 3.25],
    "samples_at_s": [0.0, 0.004], "telemetry": [STATE],
}  # fmt: skip


def test_an_answer_is_read() -> None:
    found = read_result(json.dumps(ANSWER), ASKED)
    assert found.latency.samples_ms == (3.5, 3.25) and (found.load_ms, found.planned_bytes) == (5.5, 4096)
    assert read_result(json.dumps(ANSWER), TimingRequest(duration_s=1.0, threads=4)) == found
    assert found.telemetry[0].celsius == {"cpu": -3.5}


WRONG: list[tuple[str, Any, str]] = [
    ("method", "forward_9_5_3", "it is of method 'forward_9_5_3', not forward"),
    ("threads", 1, "it is of threads 1, not 4"),
    ("samples_ms", [3.5], "1 samples, not 2|its samples are not times"),
    ("samples_at_s", [0.0], "its samples are not times"),
    ("samples_at_s", [0.0, -1.0], "its samples_at_s is not a figure of a machine"),
    *(("samples_ms", [3.5, wrong], "its samples are not times") for wrong in (0, -1.0, math.nan, math.inf)),
    *(
        (key, wrong, f"its {key} is not a figure of a machine")
        for key in ("load_ms", "cpu_ms")
        for wrong in (math.nan, math.inf, -math.inf, -0.5, 1e40)
    ),
    *(
        (key, wrong, f"its {key} is not a figure of a machine")
        for key in ("planned_bytes", "peak_rss_bytes")
        for wrong in (-1, 10**40)
    ),
    ("machine", {**ANSWER["machine"], "cores_online": -4}, "its cores_online is not a figure"),
    ("telemetry", [{**STATE, "t_s": math.nan}], "its telemetry is not a figure"),
    ("telemetry", [{**STATE, "celsius": {"cpu": math.inf}}], "its telemetry is not a figure"),
    ("telemetry", [{**STATE, "khz": {"cpu0": -1}}], "its khz is not a figure"),
    ("telemetry", [{**STATE, "khz": {"cpu0": math.inf}}], "it is malformed"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG)
def test_another_answer_is_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_result(json.dumps({**ANSWER, key: value}), ASKED)


VERDICT = {"method": "forward", "passed": True, "images": 4, "snr_db": None, "kept_overlap": [1.0], "failures": []}


def verdicts_of(folder: Path, methods: list[dict[str, Any]], code: int) -> tuple[MethodVerdict, ...]:
    runner = shell_script(folder / "runner", f"echo '{json.dumps({'methods': methods})}'; exit {code}")
    return self_test_alone(runner, folder / "net.pte", folder / "net.golden")


def test_a_verdict_is_read(tmp_path: Path) -> None:
    (found,) = verdicts_of(tmp_path, [VERDICT], 0)
    assert found.passed and found.snr_db == math.inf


@pytest.mark.parametrize(
    ("methods", "code"),
    [
        ([], 0),
        ([{**VERDICT, "passed": False}], 0),
        ([VERDICT], SELF_TEST_FAILED),
        *(
            ([{**VERDICT, key: wrong}], 0)
            for key, wrong in (("passed", "yes"), ("snr_db", math.nan), ("kept_overlap", [2]))
        ),
    ],
)
def test_a_verdict_that_contradicts_itself_is_refused(tmp_path: Path, methods: list[dict[str, Any]], code: int) -> None:
    with pytest.raises(DeviceError, match="its verdict cannot be read"):
        verdicts_of(tmp_path, methods, code)


def test_a_key_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="key 'load_ms' stands there twice"):
        read_result(json.dumps(ANSWER)[:-1] + ', "load_ms": 1}', ASKED)
