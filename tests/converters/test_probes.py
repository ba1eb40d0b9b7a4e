"""Programs of single parts: lowered for real, run, and compared with the parts they are of."""

from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import TINY_COUNTS
from kinds import kind
from tiny_exports import tiny_net

from tofe_edge.budget.latency_model import Part, parts_of
from tofe_edge.converters.probes import ProbeProgram, build_probes, count_programs
from tofe_edge.converters.static_graph import build_static_graph
from tofe_edge.errors import InputError
from tofe_edge.io.quiet import swallow_native_stderr
from tofe_edge.runtimes.bench import HostBench
from tofe_edge.runtimes.timing import TimingRequest

BLOCK, TAIL = Part("block", (12,)), Part("tail", (4,))
STEM, SELECTION, APPROXIMATOR, CALL = Part("stem"), Part("selection"), Part("approximator", (5,)), Part("call", (17,))
DENSE, TOFE = Part("dense"), Part("tofe", TINY_COUNTS.kept)
SINGLE = (CALL, STEM, SELECTION, BLOCK, TAIL, APPROXIMATOR)


@cache
def programs(precision: str) -> tuple[ProbeProgram, ...]:
    """Programs of the tiny net."""
    return tuple(build_probes(tiny_net(), (*SINGLE, DENSE, TOFE), precision))


def run(program: ProbeProgram, part: Part, inputs: torch.Tensor) -> list[torch.Tensor]:
    """What a part gives."""
    with swallow_native_stderr():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(program.content).load_method(part.method)
        assert method is not None
        return [output.clone() for output in method.execute([inputs])]


def test_each_part_computes_what_the_whole_net_does_there() -> None:
    single, whole = programs("fp32")
    graph = build_static_graph(tiny_net(), TINY_COUNTS)
    image, tokens = torch.randn(1, 3, 64, 64), torch.randn(1, 17, 48)
    with torch.no_grad():
        expected = {
            CALL: (tokens, [tokens * 2]),
            STEM: (image, [graph.stem(image)]),
            BLOCK: (tokens[:, :12].contiguous(), [graph.blocks[0](tokens[:, :12])]),
            TAIL: (tokens[:, :4].contiguous(), [graph.head(graph.blocks[-1](tokens[:, :4]))]),
            APPROXIMATOR: (tokens[:, :5].contiguous(), [graph.approximators[0](tokens[:, :5])]),
            TOFE: (image, list(graph(image))),
        }
    for part, (inputs, outputs) in expected.items():
        found = run(whole if part is TOFE else single, part, inputs)
        for one, other in zip(found, outputs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    front, back, order = run(single, SELECTION, tokens)
    assert sorted(order.tolist()) == list(range(16))
    torch.testing.assert_close(torch.cat((front, back), dim=1)[:, 1:], tokens[:, 1:][:, order])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_programs_are_as_many_as_announced_and_can_be_timed(precision: str, tmp_path: Path) -> None:
    made = programs(precision)
    assert [part for program in made for part in program.parts] == [*SINGLE, DENSE, TOFE]
    assert len(made) == count_programs((*SINGLE, DENSE, TOFE)) == 2
    assert count_programs(parts_of(tiny_net().backbone.spec, None)[:-2]) >= 2
    for number, program in enumerate(made):
        path = tmp_path / f"{number}.pte"
        path.write_bytes(program.content)
        for part in program.parts:
            timing = HostBench().time(path, TimingRequest(part.method, runs=2, warm_up=0))
            assert min(timing.latency.samples_ms) > 0


def test_int8_parts_are_quantized_and_the_selector_is_not() -> None:
    tokens = torch.randn(1, 17, 48)
    outputs = {
        precision: run(programs(precision)[0], BLOCK, tokens[:, :12].contiguous())[0] for precision in ("fp32", "int8")
    }
    assert not torch.equal(outputs["fp32"], outputs["int8"])
    torch.testing.assert_close(outputs["int8"], outputs["fp32"], atol=0.3, rtol=0.1)
    orders = [run(programs(precision)[0], SELECTION, tokens)[2] for precision in ("fp32", "int8")]
    assert torch.equal(*orders)


def test_a_net_with_a_convolution_stem_and_an_auxiliary_head_has_the_same_parts() -> None:
    single, whole = build_probes(tiny_net("lvvit"), (TAIL, DENSE), "fp32")
    assert run(single, TAIL, torch.randn(1, 4, 48))[0].shape == (1, 10)
    assert run(whole, DENSE, torch.randn(1, 3, 64, 64))[0].shape == (1, 10)


def test_other_precisions_are_refused() -> None:
    with pytest.raises(InputError, match="'fp16': latency is predicted for fp32 and int8"):
        next(build_probes(tiny_net(), SINGLE, "fp16"))


def test_a_head_that_reads_all_patches_is_not_timed_in_parts() -> None:
    with pytest.raises(
        InputError, match="its head reads all patch tokens; latency is predicted for heads that read CLS"
    ):
        next(build_probes(kind("mean, norm behind it"), SINGLE, "fp32"))
