"""Running and timing artifacts: one module a runtime, one a way to look at it."""
