"""The form of report.json, of a comparison and of single runs; read before a page is made of it."""

from typing import Any

from lmjax.compare.forms import (
    Anything,
    FalseOr,
    Flag,
    Form,
    Many,
    Maybe,
    Named,
    Number,
    Record,
    Tuple,
    Whole,
    Word,
)
from lmjax.errors import InputError, unknown

SCHEMA = 1
VERDICTS = ("better", "worse", "cannot tell", "no verdict")

WORD, NUMBER, WHOLE, FLAG = Word(), Number(), Whole(), Flag()
OPTIONAL = Maybe(NUMBER)  # null: not known, or a loss that is not finite
CELLS = Many(WORD)
QUARTILES = Maybe(Record({"median": OPTIONAL, "q1": OPTIONAL, "q3": OPTIONAL}))
SPEEDUP = Maybe(
    Record(
        {
            "ratio": OPTIONAL,
            "low": OPTIONAL,
            "high": OPTIONAL,
            "censored": WHOLE,
            "bound": Maybe(WORD),
        },
        {"note": WORD},
    )
)
TRIAL = Record({"rate": NUMBER, "loss": OPTIONAL, "cell": WORD}, {"cells": CELLS})
REFERENCE = Maybe(Record(dict.fromkeys(("title", "paper", "repository", "commit", "path"), WORD)))
DIRECTION = Word(("down", "up"))
CURVE = Record(
    {
        "steps": Many(NUMBER),
        "mean": Many(OPTIONAL),
        "low": Many(OPTIONAL),
        "high": Many(OPTIONAL),
    }
)
VARIANT = Record(
    {
        "label": WORD,
        "words": Many(WORD),
        "reference": REFERENCE,
        "verdict": Maybe(Word(VERDICTS)),
        "sentence": WORD,
        "why": Maybe(WORD),
        "rate": OPTIONAL,
        "tuning": Record({"trials": Many(TRIAL), "at_edge": FLAG}),
        "final": Record(
            {
                "mean": OPTIONAL,
                "low": OPTIONAL,
                "high": OPTIONAL,
                "values": Many(OPTIONAL),
                "diverged": WHOLE,
                "cells": CELLS,
            }
        ),
        "headline": Maybe(Record({"mean": OPTIONAL})),
        "difference": Maybe(
            Record(
                {
                    "mean": OPTIONAL,
                    "low": OPTIONAL,
                    "high": OPTIONAL,
                    "p_holm": OPTIONAL,
                    "cells": CELLS,
                    "seeds_needed": OPTIONAL,
                }
            )
        ),
        "speedup_steps": SPEEDUP,
        "speedup_seconds": SPEEDUP,
        "sensitivity": Maybe(
            Record({"width_decades": OPTIONAL, "low": OPTIONAL, "high": OPTIONAL})
        ),
        "budget_curve": Many(Tuple((NUMBER, OPTIONAL, OPTIONAL, OPTIONAL))),
        "costs": Maybe(
            Record(
                {
                    "state_bytes_per_parameter": OPTIONAL,
                    "state_copies": OPTIONAL,
                    "peak_bytes": OPTIONAL,
                    "flops_per_step": OPTIONAL,
                    "step_ms": QUARTILES,
                    "over_sgd": QUARTILES,
                }
            )
        ),
        "curve": CURVE,
    }
)
RANKING = Many(Tuple((WORD, WHOLE)))
VALUES = Many(Record({"field": WORD, "values": Named(Anything(), least=1)}))
COMPARISON = Record(
    {
        "title": WORD,
        "partial": FalseOr(Record({"done": WHOLE, "of": WHOLE})),
        "question": WORD,
        "experiment": Record(
            {
                "name": WORD,
                "steps": WHOLE,
                "batch_size": WHOLE,
                "parameters": Maybe(WHOLE),
                "data": Record({"name": WORD, "digest": WORD}),
                "metric": Record({"name": WORD, "unit": WORD, "direction": DIRECTION}),
                "headline": Maybe(Record({"name": WORD, "direction": DIRECTION})),
            }
        ),
        "horizon": Record(
            {"short": FLAG, "why": Maybe(WORD), "baselines": Named(NUMBER)},
            {"metric": WORD},  # of the baselines; without it, the one that is compared
        ),
        "baseline": WORD,
        "variants": Many(VARIANT, least=1),
        "ranking": Record({"per_step": RANKING, "per_second": RANKING}),
        "fairness": Many(Record({"claim": WORD, "proof": WORD, "holds": FLAG, "cells": CELLS})),
        "config_diff": VALUES,
        "auxiliary": Maybe(WORD),
        "environment": Named(Anything()),
        "reproduce": Record(
            {
                "all": WORD,
                "cell": WORD,
                "cells": Many(
                    Record(
                        {
                            "id": WORD,
                            "variant": WORD,
                            "rate": OPTIONAL,
                            "seed": WHOLE,
                            "purpose": WORD,
                            "loss": OPTIONAL,
                            "seconds": OPTIONAL,
                        },
                        {"state": Maybe(WORD)},  # digest of the state at the end
                    )
                ),
            }
        ),
        "statistics": WORD,
    }
)
SERIES = Record({"steps": Many(NUMBER), "values": Many(OPTIONAL)})
RUN = Record(
    {
        "label": WORD,
        "path": WORD,
        "state": Word(("finished", "running", "stopped")),
        "step": WHOLE,
        "steps": WHOLE,
        "headline": WORD,
        "unit": Maybe(WORD),
        "train": SERIES,
        "validation": Named(SERIES),
        "final": Named(NUMBER),
        "baselines": Named(Named(NUMBER)),
        "rate": OPTIONAL,
        "mfu": Named(NUMBER),
        "seconds": OPTIONAL,
        "parameters": Maybe(WHOLE),
        "digest": Maybe(WORD),
    }
)
RUNS = Record(
    {
        "title": WORD,
        "runs": Many(RUN, least=1),
        "config_diff": VALUES,
        "environment": VALUES,
        "commands": Many(WORD),
    }
)
KINDS: dict[str, Form] = {"comparison": COMPARISON, "runs": RUNS}


def check(report: Any) -> None:
    """Raise InputError, naming the field, for what no page can be made of."""
    Record({"schema": WHOLE, "kind": WORD}).check(report, "")
    if report["schema"] != SCHEMA:
        raise InputError(f"schema = {report['schema']}: this lmjax reads {SCHEMA}")
    if report["kind"] not in KINDS:
        raise unknown("kind of report", report["kind"], KINDS)
    KINDS[report["kind"]].check(report, "")
    _same_names(report)


def _same_names(report: dict[str, Any]) -> None:
    """Refuse two variants or runs of one name, and names that no variant has."""
    key = "variants" if report["kind"] == "comparison" else "runs"
    labels = [item["label"] for item in report[key]]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InputError(f"{key}: two of them are called {twice[0]!r}")
    if key == "runs":
        for run in report["runs"]:
            for series in (run["train"], *run["validation"].values()):
                if len(series["steps"]) != len(series["values"]):
                    raise InputError(f"{run['label']}: a curve has columns of different lengths")
        return
    if report["baseline"] not in labels:
        raise InputError(f"baseline = {report['baseline']!r}: none of the variants")
    for name, places in report["ranking"].items():
        for label, _ in places if isinstance(places, list) else []:
            if label not in labels:
                raise InputError(f"ranking.{name}: {label!r} is none of the variants")
    for variant in report["variants"]:
        curve = variant["curve"]
        if len({len(curve[name]) for name in ("steps", "mean", "low", "high")}) > 1:
            raise InputError(f"{variant['label']}: its curve has columns of different lengths")
