"""Writes compare.json: Holm's adjustment, sample sizes and performance profiles, written elsewhere.

    pip install statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6 pandas==3.1.1 matplotlib==3.11.2
    pip install absl-py==2.5.1 tabulate==0.10.0
    python make_compare.py PATH/TO/performance_profile.py compare.json

on Python 3.11, where the file, which is not kept here and is checked by its SHA-256, comes from
    github.com/mlcommons/algorithmic-efficiency at 2c90454fc05d5bdf3598b0c7651e611f132a7060:
    scoring/performance_profile.py

compute_performance_profiles and compute_leaderboard_score run as they were written. What they read
from files of training runs is replaced: the times to target are a table, the workloads its columns
(8, which the file divides by). The modules that the file imports of its own project are empty but
for the names it takes. np.trapz, which NumPy 2.4 no longer has, is np.trapezoid.
"""

# pyright: reportMissingImports=false
import argparse
import hashlib
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

SHA256 = "2d243a8029a36a73c6f8ef3f927e4ec561b9264a53d5747112b5c86bf519d158"

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
WORKLOADS = [f"workload {number}" for number in range(8)]
INF = float("inf")
TIMES = {  # variant -> times; never reached, reached by nobody, at the limit, beyond it
    "a": [10.0, 12.0, 8.0, INF, 5.0, 100.0, 30.0, 1.0],
    "b": [20.0, 6.0, 8.0, INF, 20.0, 399.0, INF, 7.0],
    "c": [15.0, 25.0, 11.0, INF, INF, 150.0, 12.0, 3.5],
    "d": [35.0, 9.0, 33.0, INF, 7.5, 101.0, 60.0, INF],
}
POINTS = 61  # ratios from 1 to 4


def load(path: Path) -> types.ModuleType:
    """The scoring module, with the project around it left out."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{path.name} has SHA-256 {found}, not {SHA256}")
    for name in ("algoperf", "algoperf.workloads", "algoperf.workloads.workloads", "scoring"):
        sys.modules[name] = types.ModuleType(name)
    workloads = sys.modules["algoperf.workloads.workloads"]
    vars(workloads).update(WORKLOADS={}, BASE_WORKLOADS=WORKLOADS, get_base_workload_name=None)
    vars(sys.modules["algoperf.workloads"]).update(workloads=workloads)
    vars(sys.modules["algoperf"]).update(workloads=sys.modules["algoperf.workloads"])
    vars(sys.modules["scoring"]).update(scoring_utils=None)
    if not hasattr(np, "trapz"):
        vars(np).update(trapz=np.trapezoid)
    module = types.ModuleType(path.stem)
    exec(compile(path.read_text(), path.name, "exec"), module.__dict__)
    return module


def profiles(path: Path) -> dict[str, list]:
    module = load(path)
    vars(module).update(
        get_workloads_time_to_target=lambda row, name, *_: pd.DataFrame([row], [name], WORKLOADS)
    )
    with tempfile.TemporaryDirectory() as folder:
        table = module.compute_performance_profiles(
            TIMES, min_tau=1.0, max_tau=4.0, num_points=POINTS, output_dir=folder
        )
    scores = module.compute_leaderboard_score(table, normalize=True)
    return {
        "times": [[str(time) for time in row] for row in TIMES.values()],
        "ratios": table.columns.tolist(),
        "profiles": table.loc[list(TIMES)].to_numpy().tolist(),
        "scores": scores.loc[list(TIMES), "score"].tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write compare.json.")
    parser.add_argument("profile", type=Path, help="performance_profile.py")
    parser.add_argument("output", type=Path, help="compare.json")
    arguments = parser.parse_args()
    result = {
        "source": "statsmodels 0.15.0; mlcommons/algorithmic-efficiency at 2c90454",
        "holm": [[p, multipletests(p, method="holm")[1].tolist()] for p in P_VALUES],
        "seeds": [
            [effect, error, float(TTestPower().solve_power(effect, None, error, POWER))]
            for effect in EFFECTS
            for error in ERRORS
        ],
        "algoperf": profiles(arguments.profile),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
