"""Reducing a dense net without labels and without training: selectors, approximators and token counts fitted to it."""
