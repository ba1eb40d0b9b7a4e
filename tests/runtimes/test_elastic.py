"""A program with several budgets under a deadline: which method ran, on a made-up clock and on the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes import elastic
from tofe_edge.runtimes.deadline import DeadlineConfig, DeadlineGovernor, Rung
from tofe_edge.runtimes.elastic import ElasticModel, load_elastic
from tofe_edge.runtimes.executorch import ExecuTorchModel

COST = {"forward": 4.0, "forward_9": 2.0, "forward_5": 1.0}
IMAGE = np.zeros((1, 3, 8, 8), np.float32)


@dataclass
class Device:
    """A clock that stands still but for the made-up methods; each answers with its own name's number as logit."""

    ms: dict[str, float]
    now: float = 0.0
    ran: list[str] = field(default_factory=list)

    def perf_counter(self) -> float:
        return self.now

    def method(self, name: str) -> Callable[[npt.NDArray[np.float32]], Prediction]:
        def run(pixels: npt.NDArray[np.float32]) -> Prediction:
            assert pixels is IMAGE
            self.now += self.ms[name] / 1e3
            self.ran.append(name)
            return Prediction(np.array([COST[name]], np.float32), ())

        return run


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made_up = Device(ms={name: 5 * cost for name, cost in COST.items()})
    monkeypatch.setattr(elastic, "time", made_up)
    return made_up


def elastic_on(device: Device, deadline_ms: float) -> ElasticModel:
    methods: Mapping[str, Any] = {name: device.method(name) for name in COST}
    rungs = [Rung(name, cost) for name, cost in COST.items()]
    return ElasticModel(
        cast("dict[str, ExecuTorchModel]", methods), DeadlineGovernor(rungs, DeadlineConfig(deadline_ms))
    )


def run(model: ElasticModel, device: Device, runs: int) -> list[str]:
    """What ran in the last ``runs`` calls; each gives the prediction of the method that ran."""
    for _ in range(runs):
        assert model(IMAGE).logits[0] == COST[device.ran[-1]]
    return device.ran[-runs:]


def test_with_time_to_spare_the_largest_method_runs_in_the_end(device: Device) -> None:
    model = elastic_on(device, deadline_ms=30)
    assert run(model, device, 1) == ["forward_5"]
    run(model, device, 500)
    assert set(run(model, device, 50)) == {"forward"}


def test_a_smaller_method_runs_where_the_larger_one_misses_the_deadline(device: Device) -> None:
    model = elastic_on(device, deadline_ms=30)
    run(model, device, 500)
    device.ms = {name: 2 * ms for name, ms in device.ms.items()}  # it throttles: 40, 20 and 10 ms
    ran = run(model, device, 200)
    assert ran[0] == "forward" and ran[-1] == "forward_9"
    assert 0 < ran.count("forward") < 100


def test_where_no_method_meets_the_deadline_the_smallest_runs_and_no_other(device: Device) -> None:
    model = elastic_on(device, deadline_ms=1)
    assert set(run(model, device, 300)) == {"forward_5"}
    assert not model.governor.meets_deadline


def test_a_failed_run_tells_the_governor_nothing(device: Device) -> None:
    model = elastic_on(device, deadline_ms=30)
    device.ms = {}
    for _ in range(50):
        with pytest.raises(KeyError):
            model(IMAGE)
    assert model.governor.meets_deadline and model.governor.switches == 0


def pixels(count: int) -> list[npt.NDArray[np.float32]]:
    return list(np.random.default_rng(3).normal(size=(count, 1, 3, 64, 64)).astype(np.float32))


def test_every_method_of_an_artifact_is_a_rung_and_none_is_left(elastic_artifact: Artifact) -> None:
    listed = elastic_artifact.manifest.methods
    model = load_elastic(elastic_artifact, threads=1, deadline_ms=60_000)
    assert model.methods.keys() == listed.keys()
    assert {rung.method: rung.gmacs for rung in model.governor.rungs} == {
        name: method.gmacs for name, method in listed.items()
    }
    ran = []
    for image in pixels(120):
        name = model.governor.method
        prediction = model(image)
        ran.append(name)
        assert [len(positions) for positions in prediction.kept] == listed[name].token_counts
    by_cost = sorted(listed, key=lambda name: listed[name].gmacs)
    assert ran[0] == by_cost[0] and ran[-1] == by_cost[-1]


def test_an_impossible_deadline_keeps_an_artifact_on_its_smallest_method(elastic_artifact: Artifact) -> None:
    smallest = min(elastic_artifact.manifest.methods.values(), key=lambda method: method.gmacs)
    model = load_elastic(elastic_artifact, threads=1, deadline_ms=1e-6)
    for image in pixels(40):
        assert [len(positions) for positions in model(image).kept] == smallest.token_counts
    assert model.governor.switches == 0 and not model.governor.meets_deadline


@pytest.mark.parametrize("deadline_ms", [0, -1, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(elastic_artifact: Artifact, deadline_ms: float) -> None:
    with pytest.raises(InputError, match="deadline_ms must be positive and finite"):
        load_elastic(elastic_artifact, threads=1, deadline_ms=deadline_ms)
