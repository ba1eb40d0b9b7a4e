"""Comparisons with peers. Results are dated YAML files beside the code that made them."""
