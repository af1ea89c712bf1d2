"""Made-up reports of comparisons, as `lmjax compare` writes them: 2, 4 and 12 variants.

Losses follow a power law whose exponent depends on the variant, tuning losses a parabola in the
logarithm of the rate. Nothing is drawn: spread is a fixed pattern over the seeds.
"""

import json
import math
from typing import Any

STEPS, EVERY, START, FLOOR = 900, 30, 5.55, 1.25
SEEDS = (3, 4, 5, 6, 7)
PATTERN = (-1.1, 0.7, -0.2, 1.3, -0.7)  # of the seeds, in standard errors; its mean is 0
T95 = 2.776  # of Student's t with 4 degrees of freedom
TUNE_SEED = 0
BASELINE_MS = 41.0
Json = dict[str, Any]


def loss(power: float, step: float) -> float:
    """The curve of a variant: START at step 0, then a power law down to FLOOR."""
    return FLOOR + (START - FLOOR) * (1 + step / 12) ** -power


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and t interval of five values."""
    mean = math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
    return mean, mean - T95 * error, mean + T95 * error


def cell(label: str, rate: float, seed: int) -> str:
    return f"{label}/lr{rate:g}/seed{seed}"


def variant(
    label: str,
    power: float,
    best: float,
    *,
    spread: float = 0.03,
    over: float = 1.1,
    copies: float = 2,
    diverges: float = 30.0,
    at_edge: bool = False,
) -> Json:
    """Everything but what is judged against the baseline."""
    rates = [best * 10 ** (n / 2) for n in (range(-4, 1) if at_edge else range(-2, 3))]
    trials, end = [], loss(power, STEPS)
    for rate in rates:
        decades = math.log10(rate / best)
        lost = rate > best * diverges
        value = None if lost else end + 0.35 * decades**2 + (0.2 * decades if decades > 0 else 0)
        name = cell(label, rate, TUNE_SEED)
        trials.append(
            {"rate": rate, "loss": value, "diverged": 120 if lost else None, "cell": name}
        )
    steps = list(range(0, STEPS + 1, EVERY))
    seeds = {
        str(seed): [loss(power, t) + (spread * shift if t else 0.0) for t in steps]
        for seed, shift in zip(SEEDS, PATTERN, strict=True)
    }
    columns = [interval([values[n] for values in seeds.values()]) for n in range(len(steps))]
    finals = [values[-1] for values in seeds.values()]
    mean, low, high = interval(finals)
    known = sorted(trial["loss"] for trial in trials if trial["loss"] is not None)
    cells = [cell(label, best, seed) for seed in SEEDS]
    ms = BASELINE_MS * over
    return {
        "label": label,
        "words": [f"optimizer:{label}"],
        "reference": {
            "title": f"On {label}",
            "paper": "https://arxiv.org/abs/1412.6980",
            "repository": "pytorch/pytorch",
            "commit": "v2.13.0",
            "path": "torch/optim/adamw.py",
        },
        "verdict": None,
        "sentence": f"{label} is the baseline.",
        "why": None,
        "rate": best,
        "tuning": {"trials": trials, "at_edge": at_edge, "seeds": [TUNE_SEED]},
        "final": {
            "mean": mean,
            "low": low,
            "high": high,
            "values": finals,
            "diverged": 0,
            "cells": cells,
        },
        "headline": {"mean": 1 / mean, "values": [1 / value for value in finals]},
        "difference": None,
        "speedup_steps": None,
        "speedup_seconds": None,
        "sensitivity": {
            "width_decades": 0.9,
            "low": best * 10**-0.5,
            "high": best * 10**0.4,
            "tolerance": 0.05,
            "diverged": sum(trial["loss"] is None for trial in trials),
        },
        "budget_curve": [[k, *best_of(known, k)] for k in range(1, len(trials) + 1)],
        "costs": {
            "state_bytes_per_parameter": 4.0 * copies,
            "state_copies": copies,
            "peak_bytes": 31_400_000 + 3_400_000 * copies,
            "flops_per_step": 5.2e9 * over,
            "step_ms": {"median": ms, "q1": ms * 0.98, "q3": ms * 1.04},
            "over_sgd": {"median": over, "q1": over * 0.985, "q3": over * 1.03},
        },
        "curve": {
            "steps": steps,
            "mean": [column[0] for column in columns],
            "low": [column[1] for column in columns],
            "high": [column[2] for column in columns],
            "seeds": seeds,
        },
    }


def best_of(known: list[float], k: int) -> tuple[float, float, float]:
    """(expected, least, most) of the best of k values drawn without replacement, by counting."""
    count = len(known)
    k = min(k, count)
    weights = [math.comb(count - n - 1, k - 1) / math.comb(count, k) for n in range(count)]
    return sum(w * v for w, v in zip(weights, known, strict=True)), known[0], known[count - k]


def judge(item: Json, base: Json, power: float, reference: float) -> None:
    """Set a variant beside the baseline."""
    pairs = list(zip(item["final"]["values"], base["final"]["values"], strict=True))
    # Paired differences vary less than the values do; a fifth of the pattern is left.
    apart = [a - b + 0.004 * p for (a, b), p in zip(pairs, PATTERN, strict=True)]
    mean, low, high = interval(apart)
    told = high < 0 or low > 0
    p = 0.004 if told else 0.41
    cells = [*item["final"]["cells"], *base["final"]["cells"]]
    item["difference"] = {
        "mean": mean,
        "low": low,
        "high": high,
        "p": p / 2,
        "p_holm": p,
        "cells": cells,
        "seeds_needed": None if told else 34,
    }
    item["verdict"] = ("better" if mean < 0 else "worse") if told else "cannot tell"
    words = f"{item['label']} is {item['verdict']} than {base['label']}"
    if not told:
        words = f"Cannot tell {item['label']} from {base['label']} with {len(SEEDS)} seeds"
    item["sentence"] = f"{words}: final loss {mean:+.3f} nats per token [{low:+.3f}, {high:+.3f}]."
    if item["tuning"]["at_edge"]:
        item["verdict"] = "no verdict"
        item["why"] = f"its best rate {item['rate']:g} is at the edge of what was tried"
        item["sentence"] = f"No verdict on {item['label']}: {item['why']}."
    ratio = ((1 + STEPS / 12) ** (power / reference) - 1) * 12 / STEPS
    slower = item["costs"]["over_sgd"]["median"] / base["costs"]["over_sgd"]["median"]
    for unit, value in (("steps", ratio), ("seconds", ratio / slower)):
        item[f"speedup_{unit}"] = {
            "ratio": value,
            "low": value / 1.06,
            "high": value * 1.07,
            "censored": 0,
            "bound": None,
        }
        if ratio < 1:
            bound = f"<= {min(value, 1.0):.2f}"
            item[f"speedup_{unit}"] |= {"low": None, "high": None, "censored": 3, "bound": bound}


def comparison(variants: list[tuple[Json, float]]) -> Json:
    """A whole report of (variant, power); the first is the baseline."""
    (base, reference), *others = variants
    for item, power in others:
        judge(item, base, power, reference)
    items = [item for item, _ in variants]
    labels = [item["label"] for item in items]
    by_loss = sorted(items, key=lambda item: item["final"]["mean"])
    by_time = sorted(items, key=lambda i: i["final"]["mean"] * i["costs"]["over_sgd"]["median"])
    command = "uv run lmjax compare char_gpt_tiny --optimizers " + " ".join(labels) + " --seeds 5"
    return {
        "schema": 1,
        "kind": "comparison",
        "partial": False,
        "title": f"char_gpt_tiny: {', '.join(labels)}",
        "question": f"Which of {len(labels)} optimizers reaches the lowest held-out loss "
        f"on char_gpt_tiny in {STEPS} steps?",
        "experiment": {
            "name": "char_gpt_tiny",
            "steps": STEPS,
            "batch_size": 32,
            "parameters": 842_496,
            "data": {"name": "python_docs", "digest": "9f2c4e61a7d0"},
            "metric": {"name": "loss", "unit": "nats per token", "direction": "down"},
            "headline": {"name": "bits_per_byte", "unit": "", "direction": "down"},
        },
        "horizon": {"short": False, "why": None, "baselines": {"trigram": 1.71, "unigram": 3.25}},
        "baseline": base["label"],
        "variants": items,
        "ranking": {
            "per_step": [[item["label"], rank] for rank, item in enumerate(by_loss, 1)],
            "per_second": [[item["label"], rank] for rank, item in enumerate(by_time, 1)],
        },
        "fairness": proofs(items),
        "config_diff": [
            {"field": "optimizer", "values": {label: label for label in labels}},
            {"field": "optimizer.learning_rate", "values": {i["label"]: i["rate"] for i in items}},
            {"field": "optimizer.b2", "values": {base["label"]: 0.99}},
        ],
        "auxiliary": "Embeddings, head and 1-D leaves: the same AdamW in every matrix method.",
        "environment": {
            "machine": {"kind": "cpu", "count": 1, "cores": 2, "processor": "AMD EPYC"},
            "versions": {"python": "3.11.7", "jax": "0.10.2", "optax": "0.2.8"},
            "commit": "8346dee",
            "dirty": False,
            "strategy": {"chosen": "sequential", "why": "lanes are 1.3 times slower here"},
            "seconds_total": 612.4,
        },
        "reproduce": {
            "all": command,
            "cell": "uv run lmjax reproduce comparisons/char_gpt_tiny-1a2b3c4d --cell ID",
            "cells": [row for item in items for row in cells_of(item)],
        },
        "statistics": "Intervals are paired t intervals at 95 % over the report seeds, on the log "
        "ratio for speed-ups. Verdicts use p values after Holm's correction over all variants.",
    }


def proofs(items: list[Json]) -> list[Json]:
    cells = [name for item in items for name in item["final"]["cells"]]
    count = len(items)
    told = f"seed 3: a3f1c2 {count} of {count} equal; seed 4: 77b0e9 {count} of {count} equal"
    trials = f"{len(items[0]['tuning']['trials'])} each, on tuning seed {TUNE_SEED}"
    rows = (
        ("the same batches for every variant", told, cells),
        ("the same loss at step 0", f"5 seeds, {count} of {count} equal", cells),
        ("the same number of trials", trials, []),
        ("tuned and reported on other seeds", "tuned on 0; reported on 3, 4, 5, 6, 7", []),
    )
    return [
        {"claim": claim, "proof": proof, "holds": True, "cells": names}
        for claim, proof, names in rows
    ]


def cells_of(item: Json) -> list[Json]:
    label, rate, final = item["label"], item["rate"], item["final"]
    rows = [
        (trial["cell"], trial["rate"], TUNE_SEED, "tune", trial["loss"])
        for trial in item["tuning"]["trials"]
    ]
    reported = zip(final["cells"], SEEDS, final["values"], strict=True)
    rows += [(name, rate, seed, "report", value) for name, seed, value in reported]
    names = ("id", "rate", "seed", "purpose", "loss")
    return [
        {**dict(zip(names, row, strict=True)), "variant": label, "seconds": 9.3} for row in rows
    ]


def two() -> Json:
    """adamw and muon, which is better."""
    return comparison(
        [
            (variant("adamw", 0.62, 0.003, over=1.11), 0.62),
            (variant("muon", 0.74, 0.02, over=1.34, copies=1), 0.74),
        ]
    )


def four() -> Json:
    """A win, a tie, one at its edge, one that is worse; diverged trials, a bound for a speed-up."""
    return comparison(
        [
            (variant("adamw", 0.62, 0.003, over=1.11), 0.62),
            (variant("lion", 0.6204, 0.0003, over=1.05, copies=1, diverges=8), 0.6204),
            (variant("soap", 0.70, 0.01, over=2.9, copies=4, at_edge=True), 0.70),
            (variant("sgd", 0.41, 0.3, over=1.0, copies=0, diverges=2), 0.41),
        ]
    )


def twelve() -> Json:
    """All that the page must hold, with names that are long."""
    names = (
        ("adamw", 0.62, 0.003, 1.11, 2),
        ("muon", 0.74, 0.02, 1.34, 1),
        ("soap", 0.72, 0.003, 2.9, 4),
        ("lion", 0.6204, 0.0003, 1.05, 1),
        ("nesterov", 0.45, 0.1, 1.02, 1),
        ("momentum", 0.44, 0.1, 1.02, 1),
        ("sgd", 0.41, 0.3, 1.0, 0),
        ("adafactor", 0.58, 0.01, 1.2, 1.02),
        ("ademamix", 0.64, 0.002, 1.3, 3),
        ("schedule-free-adamw", 0.61, 0.006, 1.18, 3),
        ("mars-adamw-exact", 0.66, 0.004, 1.6, 3),
        ("nadamw", 0.63, 0.003, 1.12, 2),
    )
    return comparison(
        [
            (
                variant(
                    label,
                    power,
                    rate,
                    over=over,
                    copies=copies,
                    diverges=12 if power > 0.5 else 2,
                    at_edge=label == "soap",
                ),
                power,
            )
            for label, power, rate, over, copies in names
        ]
    )


def long_names() -> Json:
    """Twelve variants whose names differ in their middle or at their end."""
    report = twelve()
    text = json.dumps(report)
    for n, item in enumerate(report["variants"]):
        name = f"optimizer:{item['label']} --task.model.depth {n} --steps 900"
        text = text.replace(f'"{item["label"]}"', json.dumps(name))
    return json.loads(text)


def short_and_partial() -> Json:
    """The report of four variants, too short and not at its end."""
    report = four()
    report["partial"] = {"done": 31, "of": 40}
    why = "the best cell 1.532 is worse than the trigram's 1.21"
    report["horizon"] = {"short": True, "why": why, "baselines": {"trigram": 1.21}}
    last = report["variants"][-1]
    last["final"] |= {"mean": None, "low": None, "high": None, "values": [None], "diverged": 1}
    last["final"]["cells"] = last["final"]["cells"][:1]
    last["curve"]["mean"][12:] = [None] * (len(last["curve"]["mean"]) - 12)
    last["curve"]["low"] = last["curve"]["high"] = [None] * len(last["curve"]["mean"])
    last |= {
        "verdict": "worse",
        "sentence": "sgd is worse than adamw: it diverged on 1 of 1 seeds.",
    }
    last |= {"difference": None, "speedup_steps": None, "speedup_seconds": None, "costs": None}
    return report


def accuracy() -> Json:
    """A metric of which more is better, beside baselines in another one."""
    report = two()

    def turned(value: float | None) -> float | None:
        return None if value is None else 1 - value / 6

    for item in report["variants"]:
        final, curve = item["final"], item["curve"]
        for name in ("mean", "low", "high"):
            final[name] = turned(final[name])
            curve[name] = [turned(x) for x in curve[name]]
        final["values"] = [turned(x) for x in final["values"]]
        for place in (final, curve):
            place["low"], place["high"] = place["high"], place["low"]
        for trial in item["tuning"]["trials"]:
            trial["loss"] = turned(trial["loss"])
            trial["cells"] = [trial["cell"], trial["cell"][:-1] + "1"]
        item["budget_curve"] = [
            [k, turned(mean), turned(most), turned(least)]
            for k, mean, least, most in item["budget_curve"]
        ]
        if item["difference"]:
            mean, low, high = (item["difference"][name] / -6 for name in ("mean", "high", "low"))
            item["difference"] |= {"mean": mean, "low": low, "high": high}
    report["experiment"]["metric"] = {"name": "accuracy", "unit": "", "direction": "up"}
    report["horizon"]["metric"] = "bits_per_byte"
    return report


def copy(report: Json) -> Json:
    """As it is read from its file."""
    return json.loads(json.dumps(report, allow_nan=False))
