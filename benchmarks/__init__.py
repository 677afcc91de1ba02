"""Measurements of this project: `python -m benchmarks.presets`, `python -m benchmarks.frame`."""
