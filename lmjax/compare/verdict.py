"""The verdict on each variant, in words: better, worse, cannot tell, or no verdict at all.

Holm's step-down procedure over all variants keeps the chance of even one false "better" or "worse"
at 1 - level, whatever the variants have to do with each other.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from lmjax.compare.estimate import LEVEL, Estimate, check_level, seeds_text
from lmjax.compare.power import MOST_SEEDS, lost_runs_needed, seeds_needed, signs_needed

Better = Literal["lower", "higher"]  # which values are wanted: losses lower, accuracies higher
Word = Literal["better", "worse", "cannot tell", "no verdict"]


class Verdict(NamedTuple):
    """What can be said about a variant beside the baseline."""

    word: Word
    sentence: str  # with the numbers, and for "cannot tell" what would be needed
    estimate: Estimate | None  # None where the variant may not be judged
    p_holm: float | None  # adjusted p; None where there is none
    seeds_needed: int | None  # for "cannot tell"; None where no number, or an absurd one, would do


def holm(p: Float[np.ndarray, "tests"]) -> Float[np.ndarray, "tests"]:
    """Adjusted p values: a test is told at error a if its adjusted p is at most a.

    With p sorted, m tests: max over j <= i of (m - j) p_j (j from 0), at most 1.

    Args:
      p: in [0, 1]; anything else raises ValueError.

    Source: Holm (1979), Scandinavian Journal of Statistics 6(2).
    """
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"not all of these are p values: {p}")
    order = np.argsort(p, kind="stable")
    steps = (len(p) - np.arange(len(p))) * p[order]
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def judge(
    estimates: Mapping[str, Estimate], *, baseline: str, better: Better, level: float = LEVEL
) -> dict[str, Verdict]:
    """Each variant against the baseline, by Holm over all of them.

    Args:
      estimates: variant -> its values minus the baseline's (`paired_difference`), or the log of
        their ratio (`paired_log_ratio`). Variants without a verdict (see `no_verdict`) are not
        among them: they were ruled out before these values were looked at.
      baseline: its name, for the sentences.
      better: which values are wanted.
      level: 1 - the chance of any false "better" or "worse".
    """
    check_level(level)
    p = np.array([1.0 if found.p is None else found.p for found in estimates.values()])
    return {
        name: _verdict(name, found, float(adjusted), len(p), baseline, better, level)
        for (name, found), adjusted in zip(estimates.items(), holm(p), strict=True)
    }


def no_verdict(name: str, why: str) -> Verdict:
    """Of a variant that may not be judged, such as one whose best rate stands at the edge."""
    return Verdict("no verdict", f"no verdict on {name}: {why}", None, None, None)


def summary(verdicts: Mapping[str, Verdict], *, baseline: str) -> str:
    """All verdicts in one line, with ties; variants in the order given."""
    groups: dict[Word, str] = {
        "better": f"better than {baseline}",
        "worse": f"worse than {baseline}",
        "cannot tell": f"cannot be told from {baseline}",
        "no verdict": "no verdict",
    }
    told = []
    for word, phrase in groups.items():
        names = [name for name, verdict in verdicts.items() if verdict.word == word]
        told += [f"{phrase}: {', '.join(names)}"] if names else []
    return "; ".join(told)


def _verdict(
    name: str,
    found: Estimate,
    adjusted: float,
    tests: int,
    baseline: str,
    better: Better,
    level: float,
) -> Verdict:
    p_holm = None if found.p is None else adjusted
    numbers = ", ".join(filter(None, [_numbers(found), found.note]))
    if p_holm is not None and p_holm <= 1 - level and found.side:
        word: Word = "better" if (found.side < 0) == (better == "lower") else "worse"
        sentence = f"{name} is {word} than {baseline} with {seeds_text(found.seeds)}: {numbers}"
        how = f"{found.test} test" if found.test != "lost runs" else found.test
        sentence += f", p {p_holm:.2g} ({how}, Holm over {tests})"
        return Verdict(word, sentence, found, p_holm, None)
    # Against the smallest share of the error that Holm may give: enough whatever the others do.
    needed, what = _needed(found, 1 - (1 - level) / tests)
    sentence = f"{name} cannot be told from {baseline} with {seeds_text(found.seeds)}: {numbers}"
    if found.p is not None and found.p <= 1 - level:
        sentence += f", p {found.p:.2g} but {adjusted:.2g} by Holm over {tests}"
    return Verdict("cannot tell", f"{sentence}; {what}", found, p_holm, needed)


def _needed(found: Estimate, level: float) -> tuple[int | None, str]:
    """How many seeds, and the words for it."""
    if found.seeds < 2:
        return 2, "2 seeds are the least"
    if found.test == "none":
        return None, "no number of seeds tells what does not differ"
    if found.test == "lost runs":
        least = lost_runs_needed(level=level)
        return least, f"{least} seeds would do, if it goes on so"
    if found.test == "sign" and not found.side:
        return None, "the mean and most of the seeds do not agree"
    if found.test == "sign":
        least = max(signs_needed(level=level), found.seeds + 1)
        return least, f"a sign test needs {least} seeds or more"
    assert found.mean is not None
    assert found.spread is not None
    needed = seeds_needed(found.mean, found.spread, level=level)
    if needed is None:
        return None, f"more than {MOST_SEEDS:,} seeds would be needed at this difference and spread"
    return needed, f"about {seeds_text(needed)} would be needed at this difference and spread"


def _numbers(found: Estimate) -> str:
    """The mean with its interval, as a difference or as a ratio; "" where it is not finite."""
    if found.mean is None or math.isinf(found.mean):
        return ""
    if found.scale == "log ratio":
        told, (mean, interval) = "ratio ", found.as_ratio()
    else:
        told, mean, interval = "difference ", found.mean, found.interval
    told += f"{mean:.3g}"
    if interval is not None:
        share = f"{100 * interval.level:.4g} % interval"
        told += f" ({share} {interval.low:.3g} to {interval.high:.3g})"
    return told
