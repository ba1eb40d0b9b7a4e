"""Reaching other devices, over ssh and adb, to time models there. Starts at :func:`tofe_edge.runtimes.devices.opening.open_bench`."""
