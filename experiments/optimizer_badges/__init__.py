"""The table of optimizers: `python -m experiments.optimizer_badges`."""
