"""Which nets are taken and which refused, LV-ViT's names and arithmetic, and strict loading of dense weights."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, tiny_tofe
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tofe_edge.errors import InputError
from tofe_edge.model.backbones import BackboneAdapter, create_backbone
from tofe_edge.model.backbones.spec import check_stages, parse_stages

DEIT = "deit_tiny_patch16_224"


def on_meta(name: str, overrides: dict[str, int] | None = None) -> BackboneAdapter:
    """A net of any size without memory for its weights."""
    with torch.device("meta"):
        return create_backbone(name, overrides)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swin_tiny_patch4_window7_224", "SwinTransformer is not a plain vision transformer"),
        ("resnet18", "ResNet is not a plain vision transformer"),
        ("vit_small_patch16_18x2_224", r"its blocks \(ParallelThingsBlock"),
        ("vit_pwee_patch16_reg1_gap_256", r"its blocks \(ParallelScalingBlock"),
        ("beit_base_patch16_224", "Beit adds a bias for relative places to its attention"),
        ("cait_xxs24_224", "Cait is not a plain vision transformer"),
        ("vit_small_patch16_dinov3", r"Eva rotates queries and keys by their places \(RoPE\), which is not supported"),
        ("eva02_tiny_patch14_224", r"Eva rotates queries and keys by their places \(RoPE\)"),
        ("aimv2_large_patch14_224", "its norm is RmsNorm, not LayerNorm"),
        ("beit3_base_patch16_224", "its attention or MLP has extra gates or norms"),
        ("vit_small_r26_s32_224", "its patch embedding is not one convolution"),
    ],
)
def test_nets_that_cannot_carry_tofe_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        on_meta(name)
    assert str(caught.value).startswith(f"backbone {name!r} cannot carry ToFe: ")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"global_pool": "avgmax"}, r"its pooling \(avgmax\) is not one of token, avg and map"),
        ({"global_pool": ""}, r"its pooling \(none\) is not one of"),
        ({"global_pool": "avg", "pool_include_prefix": True}, "its pool mixes CLS or register tokens with patches"),
        ({"final_norm": False}, "its head reads tokens behind no norm"),
    ],
)
def test_heads_that_are_not_known_are_refused(
    option: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *names, **given: create_model(*names, **given, **option))
    with pytest.raises(InputError, match=reason):
        on_meta(DEIT)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_244", "deit_tny_patch16_224", "lvit_s"])
def test_an_unknown_name_is_refused_with_near_ones(name: str) -> None:
    with pytest.raises(InputError, match="is unknown") as caught:
        create_backbone(name)
    if name != "lvit_s":
        assert f"did you mean {DEIT}" in str(caught.value)


def test_a_name_near_nothing_points_to_the_list() -> None:
    with pytest.raises(InputError, match=r"'zzz' is unknown; see timm.list_models\(\)"):
        create_backbone("zzz")


@pytest.mark.parametrize("name", [DEIT, "lvvit_s"])
def test_three_blocks_are_too_few_for_three_stages(name: str) -> None:
    with pytest.raises(InputError, match="depth 3: ToFe's three stages need at least four blocks"):
        create_backbone(name, {**TINY, "depth": 3})


@pytest.mark.parametrize("name", [DEIT, "lvvit_s"])
@pytest.mark.parametrize("wrong", [{"heads": 5}, {"nonsense": 1}])
def test_overrides_that_do_not_fit_are_refused(name: str, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"backbone {name!r}: "):
        create_backbone(name, {**TINY, **wrong})


@pytest.mark.parametrize(("name", "stages"), [(DEIT, (3, 6, 9)), ("lvvit_s", (4, 8, 12)), ("lvvit_m", (5, 10, 15))])
def test_selectors_stand_where_the_papers_do(name: str, stages: tuple[int, ...]) -> None:
    assert on_meta(name).spec.stages == stages


@pytest.mark.parametrize("name", [DEIT, "lvvit_s"])
def test_selections_may_stand_elsewhere(name: str) -> None:
    plain, moved = (create_backbone(name, {**TINY, "depth": 6}, stages=stages) for stages in (None, (1, 2, 5)))
    assert (plain.spec.stages, moved.spec.stages) == ((1, 3, 4), (1, 2, 5))
    assert moved.spec.stage_lengths() == (1, 1, 3, 1)
    assert replace(moved.spec, stages=plain.spec.stages) == plain.spec


@pytest.mark.parametrize("stages", [(), (1,), (0, 2, 3), (1, 1, 3), (2, 1, 3), (1, 2, 4), (-1, 2, 3)])
def test_selections_that_a_net_cannot_have_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="need at least two, in ascending order, from 1 to 3"):
        create_backbone(DEIT, TINY, stages=stages)


@given(st.lists(st.integers(-2, 9), max_size=5), st.integers(4, 8))
def test_checked_stages_are_those_of_which_each_has_a_block(stages: list[int], depth: int) -> None:
    whole = len(stages) >= 2 and sorted(set(stages)) == stages and stages[0] > 0 and stages[-1] < depth
    try:
        assert check_stages(stages, depth) == tuple(stages) and whole
    except InputError:
        assert not whole


@pytest.mark.parametrize("text", ["", "1,", "a", "1;2", "1.5,2"])
def test_selections_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected block numbers from 0, such as 3,6,9"):
        parse_stages(text)
    assert parse_stages("1, 4,8") == (1, 4, 8)


@pytest.mark.parametrize(
    ("name", "dim", "depth", "heads", "crop"), [("lvvit_s", 384, 16, 6, 0.9), ("lvvit_m", 512, 20, 8, 1.0)]
)
def test_lvvit_shapes(name: str, dim: int, depth: int, heads: int, crop: float) -> None:
    host = on_meta(name)
    spec = host.spec
    assert (spec.dim, spec.depth, spec.heads, spec.mlp_hidden) == (dim, depth, heads, 3 * dim)
    assert (spec.image_size, spec.patch_tokens, spec.prefix_tokens, spec.classes) == (224, 196, 1, 1000)
    assert host.preprocessing.crop_pct == crop


def test_lvvit_has_the_key_names_of_token_labeling() -> None:
    keys = set(on_meta("lvvit_s").state_dict())
    stem = {f"patch_embed.{layer}.weight" for layer in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "proj")}
    heads = {f"{layer}.{kind}" for layer in ("norm", "head", "aux_head") for kind in ("weight", "bias")}
    block = {
        f"blocks.0.{layer}.{kind}"
        for layer in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
    assert stem | heads | block | {"cls_token", "pos_embed", "blocks.0.attn.qkv.weight"} <= keys
    assert keys.isdisjoint({"blocks.0.attn.qkv.bias", "patch_embed.conv1.bias", "patch_embed.conv2.bias"})
    assert {key for key in keys if key.startswith("blocks.0.")} == block | {"blocks.0.attn.qkv.weight"}


def lvvit_by_hand(weights: dict[str, Tensor], images: Tensor, heads: int) -> Tensor:
    """LV-ViT-S from its published definition, without any of the package's modules."""
    x = images
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        kernel = weights[f"patch_embed.conv{number}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, scale, shift = (
            weights[f"patch_embed.bn{number}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.relu(F.batch_norm(x, mean, var, scale, shift))
    x = F.conv2d(x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=8)
    tokens = torch.cat((weights["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT), 1) + weights["pos_embed"]

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, value.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    for number in range(1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))):
        name = f"blocks.{number}"
        q, k, v = (
            part.unflatten(2, (heads, -1))
            for part in linear(f"{name}.attn.qkv", norm(f"{name}.norm1", tokens)).chunk(3, 2)
        )
        shares = (torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        tokens = tokens + linear(f"{name}.attn.proj", torch.einsum("bhij,bjhd->bihd", shares, v).flatten(2)) / 2
        tokens = (
            tokens + linear(f"{name}.mlp.fc2", F.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", tokens)))) / 2
        )
    tokens = norm("norm", tokens)
    return linear("head", tokens[:, 0]) + linear("aux_head", tokens[:, 1:]).max(1).values / 2


def test_lvvit_computes_its_published_definition() -> None:
    model = tiny_tofe("lvvit_s", depth=5)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = lvvit_by_hand(model.backbone.state_dict(), images, model.backbone.spec.heads)
        torch.testing.assert_close(model.forward_dense(images), wanted, rtol=0, atol=1e-5)


def dense_weights(host: BackboneAdapter) -> dict[str, Tensor]:
    """A dense state dict in the backbone's own key names."""
    return {key.removeprefix("vit."): value.clone() for key, value in host.state_dict().items()}


@pytest.mark.parametrize("name", [DEIT, "lvvit_s"])
def test_dense_weights_in_half_precision_are_loaded(name: str) -> None:
    source, target = tiny_tofe(name).backbone, tiny_tofe(name, seed=1).backbone
    halved = {key: value.half() if value.is_floating_point() else value for key, value in dense_weights(source).items()}
    target.load_dense(halved)
    for key, value in dense_weights(target).items():
        assert torch.equal(value, halved[key].to(value.dtype))
        assert value.dtype == dense_weights(source)[key].dtype


@pytest.mark.parametrize("name", [DEIT, "lvvit_s"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda weights: weights.pop("head.bias"), r"1 missing \(first: head.bias\)"),
        (lambda weights: weights.update({"extra.weight": torch.zeros(1)}), r"1 unknown \(first: extra.weight\)"),
        (lambda weights: weights.update({"head.bias": torch.zeros(11)}), r"head.bias is \(11,\), expected \(10,\)"),
    ],
)
def test_a_wrong_key_is_named_alone(name: str, damage: Callable[[dict[str, Tensor]], object], reason: str) -> None:
    target = tiny_tofe(name).backbone
    before, weights = dense_weights(target), dense_weights(tiny_tofe(name, seed=1).backbone)
    damage(weights)
    with pytest.raises(InputError, match=f"weights do not fit {name}: .*{reason}"):
        target.load_dense(weights)
    assert all(torch.equal(value, before[key]) for key, value in dense_weights(target).items())


@pytest.mark.parametrize(
    ("name", "other", "cause"),
    [
        (DEIT, "lvvit_s", "they have LV-ViT's auxiliary head, which it has not"),
        ("lvvit_s", DEIT, "it has LV-ViT's auxiliary head, which they have not"),
        (DEIT, "deit_tiny_distilled_patch16_224", "they have a distillation token, which it has not"),
    ],
)
def test_the_weights_of_another_backbone_are_refused(name: str, other: str, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        tiny_tofe(name).backbone.load_dense(dense_weights(tiny_tofe(other).backbone))


def test_a_sample_that_keeps_no_token_in_training_is_predicted_from_cls_alone() -> None:
    model = tiny_tofe("lvvit_s")
    nothing = [torch.zeros(1, 16) for _ in range(3)]
    logits = model.forward_masked(torch.randn(1, 3, 64, 64), masks=nothing).logits
    assert bool(logits.isfinite().all())
    assert float(logits.detach().abs().max()) < 1e3


def test_frozen_tokens_never_are_the_maximum_of_the_auxiliary_head() -> None:
    host = tiny_tofe("lvvit_s").backbone
    tokens = torch.randn(1, 17, 48)
    keep = torch.zeros(1, 16)
    keep[0, :5] = 1
    expected = host.logits(tokens[:, :6])
    torch.testing.assert_close(host.logits(tokens, keep), expected)
