"""A program with several budgets under a deadline: which method ran, on a made-up clock and on the real one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_edge.errors import InputError
from tofe_edge.evaluation.prediction import Prediction
from tofe_edge.io.artifact import Artifact
from tofe_edge.runtimes import deadline
from tofe_edge.runtimes.deadline import DeadlinePolicy, ElasticModel, load_elastic

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
            self.now += self.ms[name] / 1e3
            self.ran.append(name)
            return Prediction(np.array([COST[name]], np.float32), ())

        return run


def test_each_run_is_timed_and_takes_the_method_that_the_policy_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(ms={name: 5 * cost for name, cost in COST.items()})
    monkeypatch.setattr(deadline, "time", device)
    methods: dict[str, Any] = {name: device.method(name) for name in COST}
    model = ElasticModel(methods, DeadlinePolicy(COST, deadline_ms=30))

    def ran(runs: int) -> list[str]:
        for _ in range(runs):
            assert model(IMAGE).logits[0] == COST[device.ran[-1]]
        return device.ran[-runs:]

    assert ran(1) == ["forward_5"]
    assert ran(500)[-1] == "forward"
    device.ms = {name: 2 * ms for name, ms in device.ms.items()}  # it throttles: 40, 20 and 10 ms
    throttled = ran(200)
    assert throttled[0] == "forward" and throttled[-1] == "forward_9" and throttled.count("forward") < 100
    switches, device.ms = model.policy.switches, {}
    for _ in range(50):  # a run that fails tells nothing
        with pytest.raises(KeyError):
            model(IMAGE)
    assert model.policy.switches == switches


@pytest.mark.parametrize(("deadline_ms", "last"), [(60_000, -1), (1e-6, 0)])
def test_the_methods_of_an_artifact(elastic_artifact: Artifact, deadline_ms: float, last: int) -> None:
    listed = elastic_artifact.manifest.methods
    model = load_elastic(elastic_artifact, threads=1, deadline_ms=deadline_ms)
    by_cost = sorted(listed, key=lambda name: listed[name].gmacs)
    assert model.methods.keys() == listed.keys() and list(model.policy.methods) == by_cost
    ran = []
    for image in np.random.default_rng(3).normal(size=(120, 1, 3, 64, 64)).astype(np.float32):
        ran.append(model.policy.method)
        assert [len(positions) for positions in model(image).kept] == listed[ran[-1]].token_counts
    assert ran[0] == by_cost[0] and ran[-1] == by_cost[last]
    assert model.policy.meets_deadline == (last == -1)


def test_a_deadline_that_is_not_positive_is_refused(elastic_artifact: Artifact) -> None:
    with pytest.raises(InputError, match="deadline must be positive and finite"):
        load_elastic(elastic_artifact, threads=1, deadline_ms=0)
