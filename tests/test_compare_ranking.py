"""Ranks with ties."""

import math

import numpy as np
import pytest

from lmjax.compare.ranking import ranks


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
