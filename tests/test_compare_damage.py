"""Reports that are damaged, foreign or extreme: a page, or one line that says what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pages
import pytest
import report_examples as examples

from lmjax.compare import page
from lmjax.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("schema", 2, "schema = 2: this lmjax reads 1"),
        ("kind", "comparision", "unknown kind of report 'comparision'; nearest: comparison"),
        ("variants", [], "variants = []: must be a list of at least 1"),
        ("variants.0.verdict", "good", "variants[0].verdict = 'good': must be one of better"),
        ("variants.1.final.mean", "inf", "variants[1].final.mean = 'inf': must be a number"),
        ("variants.1.final.mean", 1e300, "variants[1].final.mean = 1e+300: must be a finite"),
        ("variants.1.label", "adamw", "variants: two of them are called 'adamw'"),
        ("variants.1.curve.mean", [1.0], "muon: its curve has columns of different lengths"),
        ("variants.1.speedup_steps.ratio", "2", "speedup_steps.ratio = '2': must be a number"),
        ("experiment.metric.direction", "lower", "direction = 'lower': must be one of down, up"),
        ("baseline", "adam", "baseline = 'adam': none of the variants"),
        ("ranking.per_step", [["lion", 1]], "ranking.per_step: 'lion' is none of the variants"),
        ("partial", {"done": 1}, "partial.of: missing"),
        ("horizon", None, "horizon = None: must be an object"),
    ],
)
def test_a_damaged_report_is_told_of_in_one_line(tmp_path, path, value, told):
    report = examples.two()
    put(report, [int(name) if name.isdigit() else name for name in path.split(".")], value)
    with pytest.raises(InputError) as raised:
        page.write_pages(report, tmp_path)
    assert told in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_report_is_refused(tmp_path):
    for value in (None, [], "x", {}, {"schema": 1}, {"schema": 1, "kind": ["runs"]}):
        with pytest.raises(InputError):
            page.write_pages(value, tmp_path)


def put(report, path, value):
    *way, last = path
    for name in way:
        report = report[name]
    report[last] = value


def places(value, path=()):
    """Every place in a report, of lists only the first and the last."""
    if path:
        yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list) and value:
        for n in sorted({0, len(value) - 1}):
            yield from places(value[n], (*path, n))


VALUES = (None, -1, 0, 1e-320, 1e59, "", [], {}, True)


def try_values(shift: int) -> None:
    """In every place one of the values, a page or one line; prints how many of either."""
    base = examples.two()
    for variant in base["variants"]:
        for key in ("steps", "mean", "low", "high"):
            variant["curve"][key] = variant["curve"][key][::10]
    base["reproduce"]["cells"] = base["reproduce"]["cells"][:2]
    text, made, refused = json.dumps(base), 0, 0
    for n, path in enumerate(places(base)):
        report = json.loads(text)
        put(report, path, VALUES[(n + shift) % len(VALUES)])
        try:
            tree = pages.parse(page.to_html(page.make(report)))
        except InputError as error:
            refused += len(str(error).splitlines()) == 1
        else:
            made += pages.is_inside(tree)
    print(made, refused, n + 1)


@pytest.mark.parametrize(
    "shift", [0, *(pytest.param(n, marks=pytest.mark.sweep) for n in range(1, len(VALUES)))]
)
def test_whatever_stands_in_a_field_makes_a_page_or_one_line(shift):
    """Never another error, and never a coordinate outside; without type checks, which are slow."""
    done = subprocess.run(
        [sys.executable, "-c", f"import test_compare_damage as t; t.try_values({shift})"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr
    made, refused, tried = map(int, done.stdout.split())
    assert made + refused == tried
    assert min(made, refused) > 50


def test_a_comparison_in_which_everything_diverged_is_still_a_page():
    report = examples.two()
    for v in report["variants"]:
        for trial in v["tuning"]["trials"]:
            trial["loss"] = None
        count = len(v["curve"]["steps"])
        v["curve"] |= dict.fromkeys(("mean", "low", "high"), [None] * count)
        v["final"] |= {"mean": None, "low": None, "high": None, "values": [None] * 5, "diverged": 5}
        v |= dict.fromkeys(("difference", "speedup_steps", "speedup_seconds", "rate", "costs"))
        v |= {"sensitivity": None, "budget_curve": [], "verdict": "no verdict"}
    report["horizon"]["baselines"] = {}
    report["ranking"] = {"per_step": [], "per_second": []}
    tree = pages.parse(page.to_html(page.make(report)))
    assert "5 of 5 diverged" in tree.by_id("result").text
    assert pages.is_inside(tree)
