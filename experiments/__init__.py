"""Experiments, one question a file; each has `config()` and runs as `python -m experiments.NAME`."""
