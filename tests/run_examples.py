"""A made-up report of runs, as `lmjax report` writes it."""

import math

from report_examples import STEPS, Json, loss


def runs() -> Json:
    """Two finished runs and one that was stopped."""
    powers = (("seed0-1a2b3c4d", 0.62, 900), ("seed1-1a2b3c4d", 0.61, 900), ("muon", 0.74, 420))
    labels = [label for label, _, _ in powers]
    rates = dict(zip(labels, (0.003, 0.003, 0.02), strict=True))
    return {
        "schema": 1,
        "kind": "runs",
        "title": "3 runs of char_gpt",
        "runs": [run(*power) for power in powers],
        "config_diff": [{"field": "optimizer.learning_rate", "values": rates}],
        "environment": [
            {"field": "versions.jax", "values": dict.fromkeys(labels, "0.10.2")},
            {"field": "devices.cores", "values": dict(zip(labels, (2, 2, 8), strict=True))},
        ],
        "commands": ["uv run lmjax train char_gpt", "uv run lmjax train char_gpt optimizer:muon"],
    }


def run(label: str, power: float, step: int) -> Json:
    evaluated, trained = list(range(60, step + 1, 60)), list(range(4, step + 1, 4))
    losses = [loss(power, t) for t in evaluated]
    finished = step == STEPS
    return {
        "label": label,
        "path": f"runs/char_gpt/{label}",
        "state": "finished" if finished else "stopped",
        "step": step,
        "steps": STEPS,
        "headline": "bits_per_byte",
        "unit": "tokens" if finished else None,
        "train": {
            "steps": trained,
            "values": [loss(power, t) + 0.05 * math.sin(t) for t in trained],
        },
        "validation": {
            "loss": {"steps": evaluated, "values": losses},
            "bits_per_byte": {"steps": evaluated, "values": [x / math.log(2) for x in losses]},
        },
        "final": {"loss": losses[-1], "bits_per_byte": losses[-1] / math.log(2)},
        "baselines": {"bits_per_byte": {"trigram": 2.467, "unigram": 4.684}} if finished else {},
        "rate": 52_300.0 if finished else None,
        "mfu": {"6N": 0.412} if finished else {},
        "seconds": 145.6 if finished else None,
        "parameters": 842_496 if finished else None,
        "digest": "ee79fab90cb9f4cafb1d" if finished else None,
    }
