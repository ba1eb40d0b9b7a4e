"""Grouping by level: the same numbers as ExecuTorch's own grouping, and valid delegates around what stays outside."""

from functools import cache

import pytest
import tiny_exports
import torch
import torch.nn.functional as F
from tiny_exports import Stage, images, lower_and_watch
from torch import Tensor, nn

from tofe_edge.io.targets import Lowered


@pytest.mark.parametrize("kind", ["fp32", "int8 static"])
def test_the_stock_partitioner_s_program_gives_the_same_outputs(kind: str) -> None:
    ours, stock = tiny_exports.lowered_short(kind), tiny_exports.lowered_short_by_the_stock_partitioner(kind)
    for image in images(4, seed=6):
        found, wanted = tiny_exports.run(ours, image), tiny_exports.run(stock, image)
        torch.testing.assert_close(found[0], wanted[0], atol=1e-5, rtol=1e-5)
        assert len(found) == len(wanted) == 3
        assert all(torch.equal(a, b) for a, b in zip(found[1:], wanted[1:]))


def test_the_stock_partitioner_makes_no_fewer_delegates() -> None:
    ours, stock = tiny_exports.lowered_short("fp32"), tiny_exports.lowered_short_by_the_stock_partitioner("fp32")
    assert stock.methods["forward"].delegates >= ours.methods["forward"].delegates == 3


NEEDS_PASSES = ("convolution", "conv2d", "max_pool2d", "relu")


@pytest.mark.parametrize("kind", ["fp32", "lvvit", "dense", "int8 dynamic", "int8 static"])
def test_one_pass_is_enough_for_stages_without_convolutions_and_pooling(kind: str) -> None:
    for stage in tiny_exports.export(kind).stages:
        assert stage.operators
        rewritten = any(word in operator for operator in stage.operators for word in NEEDS_PASSES)
        assert stage.linear_pass_only == (not rewritten), sorted(stage.operators)


def test_the_stages_of_a_net_with_linears_alone_need_one_pass_each() -> None:
    assert [stage.linear_pass_only for stage in tiny_exports.export("fp32").stages] == [True] * 4


def test_only_stem_and_head_of_lvvit_need_all_passes() -> None:
    assert [stage.linear_pass_only for stage in tiny_exports.export("lvvit").stages] == [False, True, True, False]


WIDTH = 8


class Toy(nn.Module):
    """Two branches, one of them through an operator that XNNPACK does not take."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.left, self.right, self.last = (nn.Linear(WIDTH, WIDTH) for _ in range(4))


class Diamond(Toy):
    def forward(self, x: Tensor) -> Tensor:
        start = self.first(x)
        out: Tensor = self.last(F.gelu(self.left(start)) + torch.cumsum(self.right(start), dim=1))
        return out


class Crossed(Toy):
    """Each branch leaves once, and each reads what the other was before: merged across, they would wait in a circle."""

    def forward(self, x: Tensor) -> Tensor:
        start = self.first(x)
        left, right = self.left(start), self.right(start)
        left_after, right_after = left + torch.cumsum(right, dim=1), right - torch.cumsum(left, dim=1)
        out: Tensor = self.last(left_after * right_after)
        return out


class Uneven(Toy):
    """One branch leaves twice, the other never; both meet at the end."""

    def forward(self, x: Tensor) -> Tensor:
        start = self.first(x)
        far = torch.cumsum(self.left(torch.cumsum(self.left(start), dim=1)), dim=1)
        out: Tensor = self.last(far + self.right(start)) + self.right(start)
        return out


class Topk(Toy):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        start = self.first(x)
        order = torch.topk(self.left(start)[0, :, 0], 3).indices
        return self.last(start[:, :3] + torch.index_select(self.right(start), 1, order)), order


class NothingInside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, dim=1)


class ConvolutionAfter(Toy):
    """A stage of Linears, then one with a convolution."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        summed = torch.cumsum(self.first(x), dim=1)
        out: Tensor = F.relu(self.conv(summed.view(1, 1, 5, WIDTH)))
        return out


@cache
def lowered_toy(toy: type[nn.Module]) -> tuple[nn.Module, Lowered, tuple[Stage, ...]]:
    net = toy().eval()
    return net, *lower_and_watch({"forward": net}, (1, 5, WIDTH))


@pytest.mark.parametrize(
    ("toy", "delegates", "outside"),
    [
        (Diamond, 2, {"cumsum": 1}),
        (Crossed, 2, {"cumsum": 2}),
        (Uneven, 3, {"cumsum": 2}),
        (Topk, 2, {"topk": 1, "index_select": 1}),
        (ConvolutionAfter, 2, {"cumsum": 1}),
        (NothingInside, 0, {"cumsum": 1}),
    ],
)
def test_branches_around_an_outside_operator(toy: type[nn.Module], delegates: int, outside: dict[str, int]) -> None:
    net, lowered, stages = lowered_toy(toy)  # type: ignore[arg-type]
    method = lowered.methods["forward"]
    assert (method.delegates, len(stages)) == (delegates, delegates)
    assert {name: method.fallback_ops.get(name) for name in outside} == outside
    for seed in range(3):
        x = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            wanted = net(x)
        found = tiny_exports.run(lowered, x)
        for output, expected in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_passes_are_chosen_stage_by_stage() -> None:
    _, _, stages = lowered_toy(ConvolutionAfter)
    assert sorted(stage.linear_pass_only for stage in stages) == [False, True]
    for stage in stages:
        assert stage.linear_pass_only != any("conv" in name for name in stage.operators)


class Concatenation(Toy):
    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        start = self.first(x)
        out: Tensor = self.last(torch.cat([start * float(part) for part in range(1, self.parts + 1)], dim=1))
        return out


@pytest.mark.parametrize("parts", [5, 6, 12])
def test_long_concatenations_run(parts: int) -> None:
    """XNNPACK's own takes five inputs; a pass splits longer ones, and must run for them."""
    net = Concatenation(parts).eval()
    lowered, (stage,) = lower_and_watch({"forward": net}, (1, 5, WIDTH))
    assert stage.linear_pass_only == (parts <= 5)
    x = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    (found,) = tiny_exports.run(lowered, x)
    with torch.no_grad():
        torch.testing.assert_close(found, net(x), atol=1e-5, rtol=1e-5)
