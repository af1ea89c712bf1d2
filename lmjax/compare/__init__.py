"""Comparing optimizers, or any other field of an experiment, fairly."""
