"""From a ToFe checkpoint to a file that a device runs: static graph, quantization, one module a target."""
