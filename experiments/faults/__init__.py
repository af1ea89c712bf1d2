"""What becomes of a run when disks, files and processes fail: `python -m experiments.faults`."""
