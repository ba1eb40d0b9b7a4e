"""tofe-edge: ToFe vision transformers on edge devices."""

__version__ = "0.1.0"
