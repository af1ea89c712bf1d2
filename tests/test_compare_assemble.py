"""report.json of cells that were written by hand: what it says follows from them."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from etils import epath
from scipy import stats

from lmjax import catalog, overrides
from lmjax.cli import parse_value
from lmjax.compare import assemble, cells, command, costs, directory
from lmjax.compare.cells import Cell
from lmjax.compare.execution import Strategy
from lmjax.compare.lease import Leases
from lmjax.compare.plan import Plan, evaluation_steps
from lmjax.compare.queue import Board
from lmjax.compare.schema import check
from lmjax.console import Console
from lmjax.errors import InputError
from lmjax.parts import replace
from lmjax.runfiles import PLAN, write_json

SEEDS = (0, 1, 2, 3)
STEPS = evaluation_steps(40)
WINDOW = {"adamw": (1e-4, 1e-3, 1e-2), "lion": (1e-5, 1e-4, 1e-3)}
BEST = {"adamw": 1e-3, "lion": 1e-4}
ENDS = {"adamw": (1.0, 1.1, 0.9, 1.05), "lion": (0.8, 0.95, 0.75, 0.9)}


@pytest.fixture(scope="module")
def made() -> Plan:
    words = ["--optimizers", *BEST, "--seeds", "4", "--trials", "3", "--tune-seeds", "1"]
    given, _ = command.parser().parse_known_args(words)
    base = overrides.apply(catalog.find("digits_fcn"), ["--steps", "40"], parse_value)
    return command.make("digits_fcn", base, given, parse_value)[0]


def result(cell: Cell, end: float, diverged: int | None = None) -> dict[str, Any]:
    """A cell whose loss falls in a straight line from 2; accuracy is 1 - loss / 2."""
    losses = [2 + (end - 2) * step / STEPS[-1] for step in STEPS]
    lost = [diverged is not None and step >= diverged for step in STEPS]
    kept = [cells.INFINITE if gone else x for gone, x in zip(lost, losses, strict=True)]
    right = [cells.INFINITE if gone else 1 - x / 2 for gone, x in zip(lost, losses, strict=True)]
    return {
        **cell._asdict(),
        "id": cell.id,
        "steps": STEPS[-1],
        "diverged": diverged,
        "evaluations": {"steps": list(STEPS), "values": {"loss": kept, "accuracy": right}},
        "train_loss": {
            "steps": [STEPS[-1] if diverged is None else diverged],
            "values": [end if diverged is None else cells.INFINITE],
        },
        "bits": {
            "batches": "b" if diverged is None else None,
            "init": "i",
            "train_loss": "t",
            "state": "s" if diverged is None else None,
        },
        "seconds": 1.0,
        "strategy": "loop",
        "machine": "here",
    }


class Written:
    """A comparison's directory with cells in it."""

    def __init__(self, plan: Plan, path: epath.Path):
        self.plan, self.path = plan, path
        strategy = Strategy("loop", 10, 1)
        directory.claim(path, plan, lambda: (strategy, {}), ["x"], "digits", Console(quiet=True))

    def tune(self, label: str, best: float | None = None) -> None:
        for rate in WINDOW[label]:
            away = abs(math.log10(rate / (best or BEST[label])))
            cells.write(self.path, result(Cell(label, rate, 1000, "tune"), 1.0 + 0.2 * away))

    def report(self, label: str, seed: int, end: float, diverged: int | None = None) -> None:
        cell = Cell(label, BEST[label], seed, "report")
        cells.write(self.path, result(cell, end, diverged))

    def all(self) -> None:
        for label, ends in ENDS.items():
            self.tune(label)
            for seed, end in zip(SEEDS, ends, strict=True):
                self.report(label, seed, end)

    def cost(self, lion: float) -> None:
        own = {"parameters": 10, "flops_per_step": 1, "flops_unseen": [], "peak_bytes": 1}
        own |= {"state_bytes": 0, "state_bytes_per_parameter": 0.0, "state_copies": 0.0}
        measured = {
            label: own | {"step_seconds": [x, 1.01 * x, 0.99 * x], "over_sgd": [1.0, 1.0, 1.0]}
            for label, x in (("adamw", 1e-3), ("lion", lion))
        }
        write_json(self.path / costs.COSTS, {"updates_in_a_block": 1, "costs": measured})

    def make(self, **changes: Any) -> dict[str, Any]:
        plan = self.plan._replace(**changes)
        board = Board(plan, self.path, Leases(self.path, print), 1)
        report = assemble.make(self.path, plan, board, {"a bar": 0.45})
        check(report)
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        return report


@pytest.fixture
def written(made, tmp_path) -> Written:
    return Written(made, epath.Path(tmp_path) / "out")


def test_differences_and_speed_ups_are_scipys_of_the_cells(written):
    written.all()
    written.cost(lion=2e-3)
    report = written.make()
    adamw, lion = report["variants"]
    paired = stats.ttest_rel(ENDS["lion"], ENDS["adamw"])
    interval = paired.confidence_interval(0.95)
    found = lion["difference"]
    assert found["mean"] == pytest.approx(np.subtract(ENDS["lion"], ENDS["adamw"]).mean())
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["p"] == found["p_holm"] == pytest.approx(paired.pvalue)
    assert lion["verdict"] == "better"
    assert report["answer"] == "better than adamw: lion"
    # A straight line from 2 to `end` crosses `target` after 40 (2 - target) / (2 - end) updates.
    logs = np.log([(2 - b) / (2 - a) for a, b in zip(ENDS["adamw"], ENDS["lion"], strict=True)])
    assert lion["speedup_steps"]["ratio"] == pytest.approx(math.exp(logs.mean()))
    low, high = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    ends = (lion["speedup_steps"]["low"], lion["speedup_steps"]["high"])
    assert ends == pytest.approx((math.exp(low), math.exp(high)))
    assert lion["speedup_seconds"]["ratio"] == pytest.approx(math.exp(logs.mean()) / 2)
    assert report["ranking"] == {"per_step": [["lion", 1], ["adamw", 2]],
                                 "per_second": [["adamw", 1], ["lion", 2]]}  # fmt: skip
    assert adamw["reference"]["paper"] == "https://arxiv.org/abs/1711.05101"
    assert adamw["final"]["values"] == pytest.approx(ENDS["adamw"])
    assert adamw["curve"]["mean"][0] == 2.0
    assert lion["headline"]["mean"] == pytest.approx(1 - np.mean(ENDS["lion"]) / 2)
    assert report["horizon"]["short"] is False  # .625 beside a bar of .45
    assert report["partial"] is False


def test_where_more_is_better_the_same_cells_say_the_same(written):
    written.all()
    report = written.make(metric=written.plan.headline)
    lion = report["variants"][1]
    assert report["experiment"]["metric"] == {"name": "accuracy", "unit": "", "direction": "up"}
    assert lion["verdict"] == "better"
    assert lion["difference"]["mean"] > 0
    assert lion["speedup_steps"]["ratio"] > 1
    assert lion["tuning"]["trials"][1]["loss"] == pytest.approx(0.5)
    assert lion["budget_curve"][-1][1:] == pytest.approx([0.5] * 3)
    assert report["ranking"]["per_step"][0] == ["lion", 1]


def test_a_best_rate_at_the_edge_gets_no_verdict(written):
    written.all()
    written.tune("lion", best=1e-3)
    lion = written.make()["variants"][1]
    assert lion["verdict"] == "no verdict"
    assert "the best rate 0.001 is at the high edge of what was tried" in lion["why"]
    assert lion["tuning"]["at_edge"]
    assert lion["rate"] == 1e-3


def test_a_part_is_told_as_a_part(written):
    for label in ENDS:
        written.tune(label)
    for seed in SEEDS[:2]:
        written.report("adamw", seed, ENDS["adamw"][seed])
    written.report("lion", 0, 0.8)
    report = written.make()
    assert report["partial"] == {"done": 9, "of": 14}
    assert report["variants"][1]["verdict"] == "cannot tell"
    assert report["variants"][1]["difference"]["low"] is None  # of one pair
    assert report["variants"][1]["costs"] is None


def test_a_search_that_ended_early_says_so(written):
    """A window with no rate between its own: 3 trials of 5, where lion has 5."""
    close = (0.001, 0.00100001, 0.00100002)
    written.all()
    ids = []
    for rate, loss in zip(close, (1.1, 1.0, 1.2), strict=True):
        cells.write(written.path, result(Cell("adamw", rate, 1000, "tune"), loss))
    for rate in (0.0000316228, 0.000316228):
        cells.write(written.path, result(Cell("lion", rate, 1000, "tune"), 1.5))
    for seed, end in zip(SEEDS, ENDS["adamw"], strict=True):
        cell = Cell("adamw", close[1], seed, "report")
        cells.write(written.path, result(cell, end))
        ids.append(cell.id)
    report = written.make(trials=5, windows=written.plan.windows | {"adamw": close})
    assert report["partial"] is False
    assert report["variants"][0]["final"]["cells"] == ids
    assert report["variants"][1]["verdict"] == "better"
    (row,) = [row for row in report["fairness"] if row["claim"] == "the same number of trials"]
    assert not row["holds"]
    assert row["proof"] == (
        "trials made, of 5 each: adamw 3, lion 5; adamw ended early: the best rate 0.00100001 is "
        "inside, from 0.001 to 0.00100002, and no rate of 6 digits between them is left to try"
    )


def test_a_seed_that_diverges_is_shown_and_not_dropped(written):
    written.all()
    written.report("lion", 2, 0.75, diverged=15)
    report = written.make()
    lion = report["variants"][1]
    assert lion["final"]["diverged"] == 1
    assert lion["final"]["values"][2] is None
    assert lion["difference"]["mean"] is None
    assert lion["verdict"] == "cannot tell"
    assert lion["curve"]["seeds"]["2"][-1] is None
    assert lion["speedup_steps"]["censored"] == 1
    row = report["fairness"][0]
    assert row["claim"] == "the same batches in the same order, for each seed"
    assert row["holds"]
    assert "seed 2: b in 1 of 1" in row["proof"]
    assert row["proof"].endswith("; not among them: 1 that diverged, and so ended early")
    assert len(row["cells"]) == 7
    (told,) = [cell for cell in report["reproduce"]["cells"] if cell["diverged"] is not None]
    assert (told["diverged"], told["loss"], told["state"]) == (15, None, None)


def test_a_short_horizon_is_said(written):
    written.all()
    for label in ENDS:
        for seed in SEEDS:
            written.report(label, seed, 1.2)
    report = written.make()
    assert report["horizon"]["short"]
    assert (
        report["horizon"]["why"] == "the best cell's accuracy is 0.4, worse than 0.45 of the a bar"
    )
    assert report["variants"][1]["verdict"] == "cannot tell"  # equal on every seed


def test_what_is_not_equal_does_not_hold(written):
    written.all()
    claim = "the same batches in the same order, for each seed"
    (row,) = [row for row in written.make()["fairness"] if row["claim"] == claim]
    assert row["holds"]
    assert len(row["cells"]) == 8
    path = cells.path_of(written.path, f"lion/lr0.0001/seed{SEEDS[1]}")
    held = json.loads(path.read_text())
    held["bits"]["batches"] = "others"
    path.write_text(json.dumps(held))
    (row,) = [row for row in written.make()["fairness"] if row["claim"] == claim]
    assert not row["holds"]
    assert "seed 1: b in 1 of 2" in row["proof"] or "seed 1: others in 1 of 2" in row["proof"]


def test_cells_that_chose_the_rate_are_of_the_same_machine_too(written):
    written.all()
    claim = "all cells computed in one way, by one code on one kind of machine"
    (row,) = [row for row in written.make()["fairness"] if row["claim"] == claim]
    assert (row["holds"], row["proof"]) == (True, "loop; machine and code here")
    path = cells.path_of(written.path, "lion/lr0.001/seed1000")
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "there"}))
    (row,) = [row for row in written.make()["fairness"] if row["claim"] == claim]
    told = "loop; machine and code here for 13 of the cells, there for 1 of the cells"
    assert (row["holds"], row["proof"]) == (False, told)


def test_a_budget_s_band_reaches_to_the_worst_that_so_many_trials_can_give(written):
    written.all()
    (adamw, _) = written.make()["variants"]
    ends = sorted(trial["loss"] for trial in adamw["tuning"]["trials"])
    bands = [(least, most) for _, _, least, most in adamw["budget_curve"]]
    assert bands == [(ends[0], ends[2]), (ends[0], ends[1]), (ends[0], ends[0])]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"machine": None}, "machine = None: must be a string"),
        ({"seed": 7}, "it is of adamw/lr0.001/seed1"),
        ({"rate": "x"}, "rate = 'x': must be a number"),
        ({"evaluations": {"steps": [0, 1], "values": {"loss": [1.0]}}}, "different lengths"),
        (
            {"evaluations": {"steps": [0], "values": {"loss": [None]}}},
            "loss[0] = None: must be a finite number or 'inf'",
        ),
        ({"evaluations": {"steps": [0], "values": {"loss": [1.0]}}}, "no accuracy"),
        ({"evaluations": {"steps": [0], "values": {"loss": [1], "accuracy": [1]}}}, "other steps"),
        ({"train_loss": {"steps": [1], "values": []}}, "different lengths"),
        ({"bits": {"init": "i", "train_loss": "t", "batches": None, "state": "s"}}, "bits"),
    ],
)
def test_a_cell_that_was_damaged_is_told_in_one_line(written, changed, told):
    written.all()
    path = cells.path_of(written.path, "adamw/lr0.001/seed1")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(InputError, match="damaged") as error:
        written.make()
    assert told in str(error.value)
    assert str(error.value).endswith("; remove it, and the same command makes it anew")


@pytest.mark.parametrize("damage", [{}, {"costs": {}}, {"updates_in_a_block": 1, "costs": {}}])
def test_costs_that_were_damaged_are_told_in_one_line(written, damage):
    written.all()
    write_json(written.path / costs.COSTS, damage)
    with pytest.raises(InputError, match=r"costs.json: damaged \(.*\); remove it"):
        written.make()
    written.cost(lion=-1e-3)
    with pytest.raises(InputError, match="a step that took no time"):
        written.make()


@pytest.mark.parametrize("field", ["code", "environment", "command"])
def test_a_plan_that_was_damaged_is_told_in_one_line(written, field):
    path = written.path / PLAN
    held = json.loads(path.read_text())
    del held[field]
    path.write_text(json.dumps(held))
    with pytest.raises(InputError, match=f"plan.json: {field}: missing"):
        directory.check(written.path, written.plan)
    with pytest.raises(InputError, match=f"plan.json: {field}: missing"):
        directory.open_plan(written.path)


def test_variants_with_budgets_of_their_own_are_asked_about_as_such(written):
    written.all()
    asked = written.make()["question"]
    assert asked.endswith("within 40 updates?")
    first, second = written.plan.variants
    longer = second._replace(experiment=replace(second.experiment, "steps", 60))
    assert assemble._question(written.plan._replace(variants=(first, longer))).endswith(
        "within its own number of updates?"
    )


def test_settings_beside_the_rate_are_told(written):
    """What all have favours none; what one has and the others have not is no fair row."""
    written.all()
    claim = "every setting but the rate at its optimizer's default, or the same in all"

    def told(**settings: dict[str, Any]) -> tuple[bool, str]:
        variants = [
            v._replace(
                experiment=replace(
                    v.experiment,
                    "optimizer",
                    dataclasses.replace(v.experiment.optimizer, **settings.get(v.label, {})),
                )
            )
            for v in written.plan.variants
        ]
        report = written.make(variants=tuple(variants))
        (row,) = [row for row in report["fairness"] if row["claim"] == claim]
        return row["holds"], row["proof"]

    assert told(adamw={"learning_rate": 0.5}) == (True, "all at their defaults")
    clip = {"clip_norm": 1.0}
    assert told(adamw=clip, lion=clip) == (True, "in all: clip_norm 1.0 (default 0.0)")
    assert told(adamw={"b2": 0.99, "weight_decay": 0.1, **clip}, lion=clip) == (
        False,
        "adamw: weight_decay 0.1 (default 0.01), b2 0.99 (default 0.999); "
        "in all: clip_norm 1.0 (default 0.0)",
    )
    assert told(lion={"b2": 0.98}) == (False, "lion: b2 0.98 (default 0.99)")


def test_configurations_differ_where_they_do(written):
    written.all()
    fields = {row["field"]: row["values"] for row in written.make()["config_diff"]}
    assert fields["optimizer"] == {"adamw": "adamw", "lion": "lion"}
    assert "optimizer.learning_rate" not in fields  # tuned
    assert "steps" not in fields
