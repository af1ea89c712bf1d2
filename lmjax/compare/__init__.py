"""The fair comparison of optimizers and other parts, and the report of it."""
