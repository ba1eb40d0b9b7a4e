"""Comparisons with other token reduction methods; not part of the product."""
