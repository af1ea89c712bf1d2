"""Weights in the layouts of transformers, to start from and to be used elsewhere."""
