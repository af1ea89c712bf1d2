"""Writes compare.json: Holm's adjustment and sample sizes, written elsewhere.

    pip install statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6 pandas==3.1.1
    python make_compare.py compare.json

on Python 3.11.
"""

# pyright: reportMissingImports=false
import argparse
import json
from pathlib import Path

from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

P_VALUES = (
    [0.01],
    [0.04, 0.01, 0.03],
    [0.2, 0.001, 0.013, 0.013, 0.9, 1.0],
    [0.5, 0.5, 0.5],
    [1e-9, 0.049, 0.051, 0.012, 0.0, 0.3, 0.02],
)
EFFECTS = (0.12, 0.2, 0.35, 0.5, 0.8, 1.0, 1.3, 1.9, 2.6, 4.0)  # mean / standard deviation
ERRORS = (0.05, 0.0125, 0.05 / 11)
POWER = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description="Write compare.json.")
    parser.add_argument("output", type=Path, help="compare.json")
    arguments = parser.parse_args()
    result = {
        "source": "statsmodels 0.15.0",
        "holm": [[p, multipletests(p, method="holm")[1].tolist()] for p in P_VALUES],
        "seeds": [
            [effect, error, float(TTestPower().solve_power(effect, None, error, POWER))]
            for effect in EFFECTS
            for error in ERRORS
        ],
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
