"""Digests of weights: a flipped bit of one of them is noticed, which no parity with the same weights would do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

SHIPPED = {
    # deit_tiny_patch16_224
    "0c035e6761fb481f1e70c5291ad5e049d89da80f949c6b80e147698043e4e97f": "9da9b3ff0cc8db1e20bbcd59c74a5243bbec6f3320c61f0a7f6c52960554c1c0",
    # tofe_deit_tiny_050
    "c21c4130481e8691f5ae243de5613836a533c550a6f7ca3d9becdc8efe70306e": "4ed031db389cfe683ebc6a48cbfb36fe10d8521a844c98c11932d9d654b0e221",
    # tofe_deit_tiny_063
    "9f3ca5fdf742fe079e1669738b0aa3fe75bf3d99a9c4a0d2d9bf8ab782e40a50": "cd4ac53f9884fc487f717a8b83a91ab8c57fe872798bf4ade35677e69031ad89",
    # tofe_deit_tiny_090
    "2cec12d90be9f70b8bf73f94dae6de7b6036890fd2257d0c00e5dbb7d71033a9": "65a17ee847b06980a3ecc01f07048705f2108d925452adfac0d502cdddfe9dc0",
}
"""The shipped checkpoints, whose headers have no digest: that of the header, and that of the weights."""


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors in the order of their names: of each its name, type and shape, and its values as they are stored."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
