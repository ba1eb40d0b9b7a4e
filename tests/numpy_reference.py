"""ToFe on DeiT in float64 NumPy, one image at a time, read from the paper's equations.

It departs from them where the package says that it does: the approximator reads a token less its mean, and a net whose
selectors have ``features`` merges frozen tokens into kept ones.
Shares no code with the package: it takes a state dict, an image, the places l_1 … l_S and the counts N^1 … N^S.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Net:
    """A net's weights under a prefix of their names, and its number of heads."""

    weights: Mapping[str, Array]
    heads: int

    def linear(self, name: str, x: Array) -> Array:
        out: Array = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return out

    def norm(self, name: str, x: Array, epsilon: float) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        out: Array = scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return out


def gelu(x: Array) -> Array:
    out: Array = x * 0.5 * (1 + _erf(x / math.sqrt(2)))
    return out


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: Array = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def embed(net: Net, image: Array) -> tuple[Array, int]:
    """Tokens ``(P + N, D)`` with the position embedding added, and P: 2 with a distillation token, else 1."""
    kernel = net.weights["backbone.vit.patch_embed.proj.weight"]
    size = kernel.shape[-1]
    rows = []
    for top in range(0, image.shape[1], size):
        for left in range(0, image.shape[2], size):
            patch = image[:, top : top + size, left : left + size]
            rows.append((kernel * patch).sum(axis=(1, 2, 3)) + net.weights["backbone.vit.patch_embed.proj.bias"])
    prefix = [net.weights[f"backbone.vit.{name}"][0, 0] for name in ("cls_token", "dist_token") if has(net, name)]
    return np.array(prefix + rows) + net.weights["backbone.vit.pos_embed"][0], len(prefix)


def has(net: Net, name: str) -> bool:
    return f"backbone.vit.{name}" in net.weights


def mhsa(net: Net, name: str, x: Array, sizes: Array) -> Array:
    """Eq. 3 in each head, heads side by side, projected; token j counts ``sizes[j]`` times."""
    dim = x.shape[1]
    width = dim // net.heads
    projected = net.linear(f"{name}.qkv", x)
    q, k, v = projected[:, :dim], projected[:, dim : 2 * dim], projected[:, 2 * dim :]
    out = []
    for head in range(net.heads):
        part = slice(head * width, (head + 1) * width)
        weights = softmax(q[:, part] @ k[:, part].T / math.sqrt(width)) * sizes
        out.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part])
    return net.linear(f"{name}.proj", np.concatenate(out, axis=1))


def block(net: Net, number: int, x: Array, sizes: Array) -> Array:
    """Eq. 1-2."""
    name = f"backbone.vit.blocks.{number}"
    x = x + mhsa(net, f"{name}.attn", net.norm(f"{name}.norm1", x, 1e-6), sizes)
    hidden = gelu(net.linear(f"{name}.mlp.fc1", net.norm(f"{name}.norm2", x, 1e-6)))
    return x + net.linear(f"{name}.mlp.fc2", hidden)


def importance(net: Net, stage: int, patches: Array) -> Array:
    """z of Eq. 8: the probability that each patch token is kept; of a merging net the score."""
    name = f"selectors.{stage}"
    tokens = net.norm(f"{name}.norm", patches, 1e-5)
    hidden = net.linear(f"{name}.fc1", tokens)
    if merges(net):
        hidden = hidden + net.weights[f"{name}.context.weight"] @ tokens.mean(axis=0)
    logits = net.linear(f"{name}.fc3", gelu(net.linear(f"{name}.fc2", gelu(hidden))))
    if not merges(net):
        z: Array = softmax(logits)[:, 0]
        return z
    scores, alike = logits[:, 0] - logits[:, 1], cosines(net, stage, patches)
    resemblance = []
    for token, score in enumerate(scores):
        better = [alike[token, other] for other in range(len(scores)) if scores[other] > score]
        resemblance.append(math.log(sum(math.exp(20 * (one - 1)) for one in (0.0, *better))) / 20)
    out: Array = scores - net.weights[f"{name}.aversion"] * np.array(resemblance)
    return out


def merges(net: Net) -> bool:
    return "selectors.0.features.weight" in net.weights


def cosines(net: Net, stage: int, patches: Array) -> Array:
    """How alike patch tokens are, each with each."""
    centred = patches - patches.mean(axis=1, keepdims=True)
    centred = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    features = net.linear(f"selectors.{stage}.features", centred)
    features = features - features.mean(axis=1, keepdims=True)
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    out: Array = features @ features.T
    return out


def merge(kept: Array, frozen: Array, alike: Array) -> tuple[Array, Array, Array]:
    """Kept tokens with their shares of frozen ones averaged in, how many each stands for, and the shares ``(M, K)``."""
    shares = softmax(300 * alike)
    sizes = np.ones(len(kept)) + shares.sum(axis=0)
    sums = [token + sum(share[place] * one for share, one in zip(shares, frozen)) for place, token in enumerate(kept)]
    return np.array(sums) / sizes[:, None], sizes, shares


def approximate(net: Net, stage: int, frozen: Array) -> Array:
    """Eq. 6, but the bottleneck reads the token less the mean of its channels."""
    name = f"approximators.{stage}"
    return frozen + net.linear(f"{name}.fc2", gelu(net.linear(f"{name}.fc1", frozen - frozen.mean())))


def head(net: Net, tokens: Array) -> Array:
    tokens = net.norm("backbone.vit.norm", tokens, 1e-6)
    logits = net.linear("backbone.vit.head", tokens[0])
    if has(net, "head_dist.weight"):
        logits = (logits + net.linear("backbone.vit.head_dist", tokens[1])) / 2
    return logits


def batch_adaptive(
    net: Net, image: Array, places: Sequence[int], counts: Sequence[int]
) -> tuple[Array, list[list[int]]]:
    """Algorithm 1 for one image ``(3, H, W)``: logits ``(classes,)`` and the kept positions of each stage, best first."""
    x, prefix = embed(net, image)
    ends = [*places[1:], 1 + max(int(key.split(".")[3]) for key in net.weights if key.startswith("backbone.vit.bl"))]
    for number in range(places[0]):
        x = block(net, number, x, np.ones(len(x)))
    everywhere = range(len(x) - prefix)
    selections = []
    for stage, (start, end, count) in enumerate(zip(places, ends, counts)):
        z = importance(net, stage, x[prefix:])
        kept = sorted(everywhere, key=lambda token: (-z[token], token))[:count]
        selections.append(kept)
        x_keep = np.concatenate([x[:prefix], x[[prefix + token for token in kept]]])
        frozen, sizes = [token for token in everywhere if token not in kept], np.ones(prefix + count)
        if merges(net) and frozen:
            patches = x[prefix:]
            alike = cosines(net, stage, patches)[frozen][:, kept]
            x_keep[prefix:], sizes[prefix:], shares = merge(patches[kept], patches[frozen], alike)
        x_before = x_keep
        for number in range(start, end):
            x_keep = block(net, number, x_keep, sizes)  # Eq. 5
        if stage == len(places) - 1:
            return head(net, x_keep), selections  # the last stage drops its frozen tokens
        rearranged = x.copy()  # Eq. 7
        rearranged[:prefix] = x_keep[:prefix]
        for token in everywhere:
            if token in kept:
                rearranged[prefix + token] = x_keep[prefix + kept.index(token)]
            elif merges(net):
                update = (x_keep - x_before)[prefix:]
                update = net.linear(f"approximators.{stage}.fc", update - update.mean(axis=1, keepdims=True))
                rearranged[prefix + token] = x[prefix + token] + shares[frozen.index(token)] @ update
            else:
                rearranged[prefix + token] = approximate(net, stage, x[prefix + token])
        x = rearranged
    raise AssertionError("no stage")
