"""The method: backbones, ToFe, its multiply-accumulates and checkpoints."""
