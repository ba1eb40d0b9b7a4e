"""Reaching other devices, over ssh and adb, to time models there. Starts at :func:`runtimes.devices.opening.open_bench`."""
