"""Training of ToFe on a dense backbone (Sections IV-C and V of the paper)."""
