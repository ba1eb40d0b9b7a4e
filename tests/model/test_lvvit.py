"""LV-ViT's auxiliary head under masks."""

from __future__ import annotations

import torch
from conftest import TinyToFe


def test_a_sample_that_keeps_no_token_in_training_is_predicted_from_cls_alone(tiny_tofe: TinyToFe) -> None:
    model = tiny_tofe("lvvit_s")
    nothing = [torch.zeros(1, 16) for _ in range(3)]
    logits = model.forward_masked(torch.randn(1, 3, 64, 64), masks=nothing).logits
    assert bool(logits.isfinite().all())
    assert float(logits.detach().abs().max()) < 1e3


def test_frozen_tokens_never_are_the_maximum_of_the_auxiliary_head(tiny_tofe: TinyToFe) -> None:
    host = tiny_tofe("lvvit_s").backbone
    tokens = torch.randn(1, 17, 48)
    keep = torch.zeros(1, 16)
    keep[0, :5] = 1
    expected = host.logits(tokens[:, :6])
    torch.testing.assert_close(host.logits(tokens, keep), expected)
