"""Experiments, one question a file; each has `config()` and `python -m experiments.NAME`."""
