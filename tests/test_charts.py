"""Scales, ticks, labels kept apart, clipping and colours, each beside what nobody here wrote."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from lmjax.compare import numerals
from lmjax.compare.charts import scale, svg
from lmjax.compare.charts.lines import Level, Line, LineChart, left_out, line_chart, window
from lmjax.compare.charts.scale import Scale

STYLE = Path(svg.__file__).parents[1] / "style.css"
REAL = st.floats(-1e12, 1e12)
POSITIVE = st.floats(1e-12, 1e12)


@given(REAL, st.floats(1e-3, 1e6), st.integers(2, 12), st.booleans())
def test_ticks_are_round_even_and_inside(low, size, most, whole):
    size = max(size, 1e-5 * abs(low), 1.0 * whole)
    high = low + size
    found = scale.ticks(low, high, most, whole)
    values = [tick.value for tick in found]
    slack = 1e-6 * size
    assert all(low - slack <= value <= high + slack for value in values)
    assert len(found) <= most + 2
    assert len({tick.text for tick in found}) == len(found)
    for tick in found:
        assert float(tick.text.replace(",", "")) == pytest.approx(tick.value, abs=1e-6 * size)
    steps = np.diff(values)
    if len(steps):
        assert steps == pytest.approx(steps[0], rel=1e-3)
        mantissa = float(f"{steps[0]:.3e}"[:5])
        assert mantissa == pytest.approx(min((1, 2, 5, 10), key=lambda m: abs(m - mantissa)))


@given(POSITIVE, st.floats(1.3, 1e12), st.integers(3, 10))
def test_ticks_of_a_log_axis_are_inside_and_apart(low, ratio, most):
    found = scale.log_ticks(low, low * ratio, most)
    values = [tick.value for tick in found]
    assert values == sorted(set(values))
    assert all(low * 0.999999 <= value <= low * ratio * 1.000001 for value in values)
    assert 1 <= len(values) <= 2 * most
    for tick in found:
        assert float(tick.text.replace(",", "")) == pytest.approx(tick.value, rel=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (1e-4, 1.0, 5, "0.0001 0.001 0.01 0.1 1"),
        (0.2, 3.0, 5, "0.2 0.5 1 2"),
        (0.02, 3.0, 5, "0.03 0.1 0.3 1 3"),
        (1e-6, 1e-4, 4, "1e-6 1e-5 0.0001"),
        (0.91, 1.32, 5, "1.0 1.1 1.2 1.3"),
    ],
)
def test_ticks_of_a_log_axis_are_those_one_would_write(low, high, most, expected):
    assert " ".join(tick.text for tick in scale.log_ticks(low, high, most)) == expected


@given(POSITIVE, POSITIVE, st.booleans())
def test_a_scale_is_affine_in_the_value_or_its_logarithm(a, b, log):
    low, high = scale.span([a, b], log)
    assert low < high
    assert low <= min(a, b)
    assert high >= max(a, b)
    axis = Scale(low, high, 300.0, 20.0, log)
    axis_value = np.log10 if log else np.asarray
    expected = np.interp(axis_value([a, b]), axis_value([low, high]), [300.0, 20.0])
    assert [axis.at(a), axis.at(b)] == pytest.approx(expected, rel=1e-6)


@settings(max_examples=60)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=14), st.floats(1, 18))
def test_labels_move_as_little_as_isotonic_regression_says(places, gap):
    low, high = 0.0, 300.0
    moved = svg.spread(places, gap, low, high)
    order = sorted(range(len(places)), key=lambda n: (places[n], n))
    shifts = gap * np.arange(len(places))
    top = high - shifts[-1]
    best = isotonic_regression(np.array(places)[order] - shifts, y_min=low, y_max=top) + shifts
    assert np.array(moved)[order] == pytest.approx(best, abs=1e-9)
    assert (np.diff(np.array(moved)[order]) >= gap - 1e-9).all()


def test_labels_that_need_more_room_than_there_is_share_it_evenly():
    assert svg.spread([5.0, 5.0, 5.0], 100.0, 0.0, 20.0) == [0.0, 10.0, 20.0]
    assert svg.spread([], 10.0, 0.0, 1.0) == []


FRAME = svg.Frame(100, 100, Scale(0, 10, 0, 100), Scale(0, 10, 100, 0))


@settings(max_examples=60)
@given(st.lists(st.floats(-20, 30), min_size=2, max_size=8))
def test_a_line_is_cut_where_it_crosses_the_edge(heights):
    """Beside NumPy's interpolation on a fine grid: what is drawn is what lies inside."""
    x = np.arange(len(heights), dtype=float)
    points = [(FRAME.x.at(a), FRAME.y.at(b)) for a, b in zip(x, heights, strict=True)]
    grid = np.linspace(0, 10 * x[-1], 997)
    level = np.interp(grid, [p[0] for p in points], [p[1] for p in points])
    drawn = np.full(len(grid), np.nan)
    for piece in svg.inside(points, FRAME):
        xs, ys = np.array(piece).T
        covered = (grid >= xs[0]) & (grid <= xs[-1])
        drawn[covered] = np.interp(grid[covered], xs, ys)
    within = (level > 0.01) & (level < 99.99)
    assert drawn[within] == pytest.approx(level[within], abs=1e-6)
    assert np.isnan(drawn[(level < -0.01) | (level > 100.01)]).all()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-20, 30), st.floats(0, 20)), min_size=2, max_size=6))
def test_a_band_keeps_the_area_that_lies_inside(edges):
    """The area of the clipped polygon, beside the integral of the clamped edges."""
    band = [(float(n), low, low + size) for n, (low, size) in enumerate(edges)]
    upper = [(FRAME.x.at(x), FRAME.y.at(high)) for x, _, high in band]
    lower = [(FRAME.x.at(x), FRAME.y.at(low)) for x, low, _ in band]
    kept = svg._clipped([*upper, *reversed(lower)], FRAME)
    grid = np.linspace(0, upper[-1][0], 20_001)
    top, foot = (np.clip(np.interp(grid, *np.array(side).T), 0, 100) for side in (upper, lower))
    expected = np.trapezoid(foot - top, grid)
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise([*kept, *kept[:1]])) / 2
    assert abs(area) == pytest.approx(expected, rel=1e-3, abs=0.05)


def test_what_is_no_number_leaves_a_gap_and_one_value_a_dot():
    whole = svg.curve(FRAME, [(0, 1), (1, 2), (2, 3)], "s1")
    assert whole.count("<path") == 1
    assert svg.curve(FRAME, [(0, 1), (1, None), (2, 3), (3, 4)], "s1").count("<path") == 2
    assert svg.curve(FRAME, [(1, None)], "s1") == ""
    assert svg.band(FRAME, [(0, 1, 2), (1, None, None), (2, 1, 2), (3, 1, 2)], "s1").count("<") == 1


def test_a_coordinate_that_is_nowhere_is_an_error():
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="a coordinate is"):
            svg.number(value)
    assert [svg.number(x) for x in (-0.001, 0, 12.5, 1.005, 100)] == ["0", "0", "12.5", "1", "100"]


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=6, unique=True))
def test_labels_that_are_cut_fit_and_differ(labels):
    short = svg.fitted(labels, 90.0)
    assert all(svg.text_width(label, svg.BOLD) <= 90.0 or len(label) <= 3 for label in short)
    assert len(set(short)) == len(short)


def test_long_labels_that_differ_in_their_middle_are_numbered():
    labels = [f"schedule-free-{x}-with-warm-up" for x in ("adamw", "lionw")]
    assert svg.fitted(labels, 90.0) == ["1 sch…m-up", "2 sch…m-up"]
    assert svg.fitted(["depth=2", "depth=4"], 90.0) == ["depth=2", "depth=4"]


def chart(values, levels=(), settled=0.2):
    line = Line("a", 1, list(enumerate(values)))
    return LineChart("t", "d", "steps", "loss", [line], [Level(*x) for x in levels], False, settled)


def test_the_first_steep_part_does_not_set_the_axis_and_the_caption_says_so():
    values = [100.0 / (n + 1) for n in range(100)]
    view = window(chart(values))
    assert 4.0 < view.high < 6.0
    assert left_out(chart(values)).startswith(f"What is above {float(f'{view.high:.3g}'):g} ")
    assert window(chart(values, settled=0.0)).high > 100
    assert left_out(chart(values, settled=0.0)) == ""
    few = chart([9.0, 5.0, 4.0])
    assert window(few).high > 9  # of few values none is cut


@pytest.mark.parametrize(
    ("levels", "kept"),
    [
        ([("below", 2.4), ("far above", 90.0)], {"below"}),
        ([("inside", 3.3), ("near", 3.1), ("far", 9.0)], {"inside", "near"}),
        ([("only", 5.0)], {"only"}),
        ([("only", 50.0)], set()),
    ],
)
def test_levels_are_in_the_picture_where_the_lines_still_fill_it(levels, kept):
    values = [3.0 + 1.0 * (n % 2) for n in range(20)]
    made = chart(values, levels)
    assert {level.label for level in window(made).levels} == kept
    told = left_out(made)
    drawn = line_chart("x", made, 800)
    for label, _ in levels:
        assert (label in told) == (label not in kept)
        assert (f">{label} " in drawn) == (label in kept)


def test_losses_over_many_decades_get_a_log_axis():
    values = [10.0 ** (-n / 10) for n in range(100)]
    assert window(chart(values)).log
    assert not window(chart([value + 1 for value in values])).log


COLOURS = [
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for block in re.findall(r":root \{(.*?)\n *\}", STYLE.read_text(), re.DOTALL)
]
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    """sRGB to linear RGB, as WCAG 2 has it."""
    c = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2's ratio."""
    dark, light = sorted(float(TO_XYZ[1] @ linear(x)) for x in (a, b))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, sight: str) -> np.ndarray:
    """CIELAB of what an eye sees, under D65."""
    seen = np.clip(np.array(SIGHT[sight]) @ linear(colour), 0, 1)
    ratio = TO_XYZ @ seen / TO_XYZ.sum(axis=1)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_the_paper(theme):
    found = COLOURS[theme]
    for name in ("ink", "soft", *(f"c{n}" for n in range(7))):
        assert contrast(found[name], found["paper"]) >= 4.5, name
    for name in ("good", "bad", "open", "warn"):
        assert contrast(found[name], found[f"{name}-wash"]) >= 4.5, name
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_are_told_apart_with_any_sight(theme, sight):
    """A difference of 2.3 is just noticed; Okabe and Ito's own set has pairs at 11."""
    seen = [lab(COLOURS[theme][f"c{n}"], sight) for n in range(7)]
    apart = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert apart > 20


def test_no_two_slots_share_both_colour_and_dashes():
    text = STYLE.read_text()
    rules = dict(re.findall(r"\.s(\d+) \{ --c: var\((--c\d(?:\); --d: [\d ]+)?)", text))
    assert sorted(map(int, rules)) == list(range(12))
    assert len(set(rules.values())) == 12


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (numerals.rate(0.003), "0.003"),
        (numerals.rate(1e-05), "1e-5"),
        (numerals.rate(1.0), "1"),
        (numerals.rate(0.003 / 10**0.5), "0.0009487"),
        (numerals.exact(0.1 + 0.2), "0.30000000000000004"),
        (numerals.exact(1e-05), "1e-5"),
        (numerals.exact(3.0), "3"),
        (numerals.significant(0.0981), "0.09810"),
        (numerals.significant(1.5e-7), "1.5e-7"),
        (numerals.significant(0.0), "0.000"),
        (numerals.significant(None), "-"),
        (numerals.fixed(-0.0004, 3), "0.000"),
        (numerals.fixed(-0.0004, 3, True), "-0.000"),
        (numerals.with_interval(1.5, 1.25, 1.75, 2), "1.50 [1.25, 1.75]"),
        (numerals.with_interval(1.5, None, None, 2), "1.50"),
        (numerals.probability(0.0004), "<0.001"),
        (numerals.big(31_400_000, "B"), "31.4 MB"),
        (numerals.big(1.2e15, "FLOP"), "1.2 PFLOP"),
        (numerals.together(["a/seed3", "a/seed14"]), "a/seed{3,14}"),
        (numerals.together(["a/seed3", "b/seed3"]), "a/seed3, b/seed3"),
        (numerals.together(["a/seed3"]), "a/seed3"),
        (numerals.shown({"a": [1, 2.5], "b": None}), "a 1, 2.5, b None"),
        (str(numerals.decimals([1.3], [0.0123])), "3"),
        (str(numerals.decimals([1.3], [0.0049])), "3"),
        (str(numerals.decimals([123.4])), "1"),
    ],
)
def test_numbers_are_written_for_a_reader(made, expected):
    assert made == expected
