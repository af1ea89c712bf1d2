"""Ranks with ties, and AlgoPerf's profile and score by hand and against its own code."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmjax.compare.performance_profile import (
    algoperf_score,
    performance_profile,
    performance_ratios,
)
from lmjax.compare.ranking import ranks


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    found = json.loads((Path(__file__).parent / "references" / "compare.json").read_text())
    return found["algoperf"]


# Three variants on four workloads; nobody finishes the last one.
TIMES = np.array(
    [
        [10.0, 40.0, math.inf, math.inf],  # ratios 1, 2, inf
        [25.0, 20.0, 30.0, math.inf],  # ratios 2.5, 1, 1
        [40.0, 100.0, 60.0, math.inf],  # ratios 4, 5, 2
    ]
)


def test_the_profile_and_the_score_of_a_table_by_hand() -> None:
    assert performance_ratios(TIMES).tolist() == [
        [1.0, 2.0, math.inf, math.inf],
        [2.5, 1.0, 1.0, math.inf],
        [4.0, 5.0, 2.0, math.inf],
    ]
    found = performance_profile(TIMES, np.array([1.0, 1.99, 2.0, 2.5, 4.0, 100.0]))
    assert found.tolist() == [
        [0.25, 0.25, 0.5, 0.5, 0.5, 0.5],
        [0.5, 0.5, 0.5, 0.75, 0.75, 0.75],
        [0.0, 0.0, 0.25, 0.25, 0.5, 0.75],
    ]
    # (4 - r) / 3 of each workload, over 4: 1 + 2/3; 1/2 + 1 + 1; 0 + 0 + 2/3
    assert algoperf_score(TIMES) == pytest.approx([5 / 12, 5 / 8, 1 / 6], rel=1e-12)
    unfinished = np.where(np.isinf(TIMES), 0, 1).mean(axis=1)  # controls: inf as if left out
    assert algoperf_score(TIMES[:, :3]) == pytest.approx(algoperf_score(TIMES) * 4 / 3)
    assert unfinished == pytest.approx([0.5, 0.75, 0.75])
    assert algoperf_score(TIMES, 2.0) == pytest.approx([0.25, 0.5, 0.0], rel=1e-12)


def test_profiles_equal_algoperf_s_own(stored: dict[str, Any]) -> None:
    """Its score is a trapezoidal sum over 61 points of a step function: off by up to half a step
    for each workload's share, 1 / 8, so by 0.025 / 3 at the most; ours is exact."""
    times, ratios = np.array(stored["times"], float), np.array(stored["ratios"])
    assert np.isinf(times).any()
    assert performance_profile(times, ratios).tolist() == stored["profiles"]
    assert performance_profile(times, ratios[::-1]).tolist() != stored["profiles"]
    assert algoperf_score(times) == pytest.approx(stored["scores"], abs=0.025 / 3)
    fine = performance_profile(times, np.linspace(1, 4, 30001))
    assert algoperf_score(times) == pytest.approx(np.trapezoid(fine, dx=1e-4) / 3, abs=1e-4)
    clipped = np.where(np.isinf(times), np.nan, times)  # the control: unfinished ones left out
    finished = np.nanmean((4 - np.minimum(clipped / np.min(times, axis=0), 4)) / 3, axis=1)
    assert algoperf_score(times) != pytest.approx(finished, abs=0.025 / 3)


def test_what_is_no_table_of_times_is_refused() -> None:
    for wrong in (np.array([[0.0, 1.0]]), np.array([[math.nan]]), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="times must be"):
            algoperf_score(wrong)
    with pytest.raises(ValueError, match="largest_ratio"):
        algoperf_score(TIMES, 1.0)


def four(seeds: int = 6) -> dict[str, np.ndarray]:
    """Losses: soap and muon alike, adamw worse, and sgd diverging on all seeds."""
    rng = np.random.default_rng(0)
    shared = rng.normal(3.0, 0.2, seeds)
    muon = shared + rng.normal(0, 0.01, seeds)
    return {
        "adamw": shared + 0.2 + rng.normal(0, 0.01, seeds),
        "muon": muon,
        "soap": muon + np.tile([0.012, -0.008], seeds // 2),
        "sgd": np.full(seeds, math.inf),
    }


def test_a_rank_is_lost_to_those_that_are_told_to_be_better() -> None:
    found = ranks({k: v for k, v in four().items() if k != "sgd"}, better="lower")
    assert {each.name: each.rank for each in found} == {"muon": 1, "soap": 1, "adamw": 3}
    assert found[0].tied == (found[1].name,)
    by_mean = {name: value.mean() for name, value in four().items()}
    assert by_mean["muon"] != by_mean["soap"]  # the control: means alone know no ties
    turned = ranks({k: v for k, v in four().items() if k != "sgd"}, better="higher")
    assert [each.rank for each in turned] == [1, 2, 2]
    assert turned[0].name == "adamw"


def test_one_that_lost_a_run_stands_behind_all_that_did_not() -> None:
    values = four()
    last = ranks(values, better="lower")[-1]
    assert (last.name, last.rank, last.mean, last.tied) == ("sgd", 4, math.inf, ())
    values["muon"][0] = math.inf
    found = {each.name: each for each in ranks(values, better="lower")}
    assert {name: each.rank for name, each in found.items()} == {
        **{"soap": 1, "adamw": 2},
        **{"muon": 3, "sgd": 3},  # by signs, 5 of 5: which is not enough
    }
    assert found["muon"].tied == ("sgd",)


def test_the_same_optimizer_under_two_names_shares_its_rank() -> None:
    values = four()
    found = ranks({"a": values["adamw"], "b": values["adamw"].copy()}, better="lower")
    assert found == (
        found[0]._replace(name="a", tied=("b",)),
        found[0]._replace(name="b", tied=("a",)),
    )
    assert found[0].rank == 1
    assert [each.rank for each in ranks({"a": values["adamw"]}, better="lower")] == [1]
    with pytest.raises(ValueError, match="nothing to rank"):
        ranks({}, better="lower")
