"""Stores the losses that one stack ends with: python tests/references/make_stacks.py

Made by the stack and machine that stacks.json names; tests/test_stacks.py compares others with it.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_stacks import REFERENCE, experiment, final_losses

from lmjax.doctor import machine

if __name__ == "__main__":
    made = {"made_with": machine(), "losses": final_losses(experiment()).tolist()}
    REFERENCE.write_text(json.dumps(made, indent=1) + "\n")
