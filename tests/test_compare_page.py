"""The pages of made-up comparisons: what they hold, that nothing leaves them, where lines lie."""

import copy
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pages
import pytest
import report_examples as examples
from markdown_it import MarkdownIt
from markdown_it.token import Token

from lmjax.compare import figures, page
from lmjax.compare.markdown import to_markdown

ROOT = Path(__file__).parents[1]
MADE = {
    "two": examples.two,
    "four": examples.four,
    "twelve": examples.twelve,
    "short_and_partial": examples.short_and_partial,
    "accuracy": examples.accuracy,
}
HOSTILE = '<script>alert(1)</script> "\' onload="x" ](javascript:alert(2)) a|b `c` *d* \\ &lt; _e_'


@pytest.fixture(scope="module", params=MADE)
def report(request):
    return examples.copy(MADE[request.param]())


@pytest.fixture(scope="module")
def tree(report):
    return pages.parse(page.to_html(page.make(report)))


def html(report) -> pages.Node:
    return pages.parse(page.to_html(page.make(examples.copy(report))))


def test_every_chart_is_there_twice_with_words_for_who_cannot_see_it(tree):
    figures = tree.all("figure")
    names = ["curves", "speedup-steps", "speedup-seconds", "sensitivity", "budget", "ranks"]
    assert [figure["id"] for figure in figures] == [*names, "step-time"]
    ids = [x["id"] for x in tree.walk() if "id" in x.attributes]
    assert len(ids) == len(set(ids))
    for figure in figures:
        wide, narrow = figure.all("svg")
        assert float(narrow["width"]) < 400 < float(wide["width"])
        for svg in (wide, narrow):
            assert svg["role"] == "img"
            for name in svg["aria-labelledby"].split():
                assert len(tree.by_id(name).text) > 10


def test_every_variant_has_its_line_and_its_name(report, tree):
    labels = [variant["label"] for variant in report["variants"]]
    for chart in ("curves", "budget"):
        for svg in tree.by_id(chart).all("svg"):
            names = svg.all("text", "label")
            told = {name.all("title")[0].text for name in names}
            assert set(labels) <= told
            styles = {style for name in names for style in name.styles if style[1:].isdigit()}
            drawn = {s for line in svg.all("path", "line") for s in line.styles} & styles
            assert drawn == styles, "a name has no line in its colour"
            assert len(styles) == len(labels)
    others = set(labels) - {report["baseline"]}
    for chart in ("speedup-steps", "speedup-seconds"):
        known = {v["label"] for v in report["variants"] if v[chart.replace("-", "_")]}
        for svg in tree.by_id(chart).all("svg"):
            told = {x.all("title")[0].text for x in svg.all("text", "label")}
            assert told == others & known
            assert len(svg.all("circle")) == len(told)
    for svg in tree.by_id("sensitivity").all("svg"):
        assert len(svg.all("circle", "ring")) == len(labels)
        trials = [trial for v in report["variants"] for trial in v["tuning"]["trials"]]
        lost = [trial for trial in trials if trial["loss"] is None]
        told = {x.text for x in svg.all("title")}
        assert {f"{trial['cell']}: diverged" for trial in lost} <= told
        assert len(svg.all("path", "stroke")) == len(lost)


@pytest.mark.parametrize(
    ("chart", "axes"),
    [
        ("curves", {"held-out loss (nats per token)", "steps"}),
        ("budget", {"expected best held-out loss (nats per token)", "trials"}),
        ("sensitivity", {"held-out loss (nats per token)", "learning rate"}),
        ("speedup-steps", {"times sooner at the baseline's final loss"}),
        ("step-time", {"times the step of sgd"}),
        ("ranks", {"per step", "per second"}),
    ],
)
def test_axes_are_named_with_their_units(report, tree, chart, axes):
    metric = report["experiment"]["metric"]["name"]
    if metric != "loss":  # which has no unit
        axes = {x.replace(" (nats per token)", "").replace("loss", metric) for x in axes}
    for svg in tree.by_id(chart).all("svg"):
        assert {x.text for x in svg.all("text", "name")} == axes


def test_every_coordinate_is_inside_its_picture(tree):
    assert pages.is_inside(tree)
    tree.all("circle")[-1].attributes["cx"] = "-3"
    assert not pages.is_inside(tree)
    tree.all("circle")[-1].attributes["cx"] = "200"


def test_curves_lie_where_their_ticks_say(report, tree):
    """Each corner of a line, read back by the ticks beside it, is a value of the report."""
    for svg in tree.by_id("curves").all("svg"):
        to_x, to_y = reader(pages.marks(svg, "middle")), reader(pages.marks(svg, "end"))
        names = {x.all("title")[0].text: x.styles for x in svg.all("text", "label")}
        for variant in report["variants"]:
            (style,) = [s for s in names[variant["label"]] if s[1:].isdigit()]
            curve = variant["curve"]
            values = dict(zip(curve["steps"], curve["mean"], strict=True))
            lines = [line for line in svg.all("path", "line") if style in line.styles]
            read = [(to_x(x), to_y(y)) for line in lines for x, y in pages.points(line)]
            matched = 0
            for step, value in read[1:]:  # the first may lie on the edge, between two values
                assert value == pytest.approx(values[round(step)], abs=0.01), variant["label"]
                matched += 1
            assert matched >= 5
            assert round(read[-1][0]) == max(s for s, y in values.items() if y is not None)


def test_a_line_in_another_place_is_noticed(report, tree):
    """Without which the test above would show nothing."""
    other = copy.deepcopy(report)
    curve = other["variants"][0]["curve"]
    curve["mean"] = [value + 0.05 for value in curve["mean"]]
    with pytest.raises(AssertionError):
        test_curves_lie_where_their_ticks_say(other, tree)


def reader(marks: list[tuple[float, float]], log: bool = False):
    """The function from pixels to values that two ticks tell; the others must agree with it."""
    value = math.log10 if log else float
    (x0, v0), *_, (x1, v1) = marks
    slope = (value(v1) - value(v0)) / (x1 - x0)

    def read(x: float) -> float:
        found = value(v0) + slope * (x - x0)
        return 10**found if log else found

    for x, v in marks:
        assert read(x) == pytest.approx(v, rel=0.02, abs=1e-9)
    return read


@pytest.mark.parametrize("unit", ["steps", "seconds"])
def test_speed_ups_lie_where_their_ticks_say(report, tree, unit):
    known = {v["label"]: v[f"speedup_{unit}"] for v in report["variants"]}
    for svg in tree.by_id(f"speedup-{unit}").all("svg"):
        read = reader(pages.marks(svg, "middle"), log=True)
        for dot in svg.all("circle"):
            label = dot.all("title")[0].text.partition(":")[0]
            found = known[label]
            caps = [
                float(x["x1"])
                for x in svg.all("line", "stroke")
                if x["x1"] == x["x2"] and abs(float(x["y1"]) + 4 - float(dot["cy"])) < 0.1
            ]
            at = read(float(dot["cx"]))
            if found["bound"]:
                assert at == pytest.approx(float(found["bound"].split()[1]), rel=0.01)
                assert "hollow" in dot.styles
                assert caps == []
            else:
                assert at == pytest.approx(found["ratio"], rel=0.01)
                ends = sorted(map(read, caps))
                assert ends == pytest.approx([found["low"], found["high"]], rel=0.01)


def test_trials_lie_where_their_ticks_say(report, tree):
    trials = {figures.cells_of(t): t for v in report["variants"] for t in v["tuning"]["trials"]}
    for svg in tree.by_id("sensitivity").all("svg"):
        ticks = pages.marks(svg, "end")
        each = len({value for _, value in ticks})  # of one row of panels
        strips = sorted({float(strip["y"]) for strip in svg.all("rect", "strip")})
        assert len(ticks) == each * len(strips)
        dots = svg.all("circle", "dot")
        for dot in dots:
            row = sum(top < float(dot["cy"]) for top in strips) - 1
            read = reader(ticks[row * each : (row + 1) * each])
            cell = dot.all("title")[0].text.partition(":")[0]
            assert read(float(dot["cy"])) == pytest.approx(trials[cell]["loss"], abs=0.02)
        known = [trial for trial in trials.values() if trial["loss"] is not None]
        assert len(dots) + len(svg.all("path", "dot")) == len(known)


def test_nothing_leads_out_of_the_page(tree):
    ids = {x.attributes["id"] for x in tree.walk() if "id" in x.attributes}
    links = 0
    for node in tree.walk():
        assert node.tag not in {"link", "img", "iframe", "object", "embed", "image", "use", "base"}
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "xlink:href", "action", "style"):
                assert (name, value[:1], value[1:] in ids) == ("href", "#", True)
                links += 1
            elif name != "xmlns":
                assert "//" not in value
    assert links > 10
    style, script = tree.all("style"), tree.all("script")
    assert [len(style), len(script)] == [1, 1]
    assert not re.search(r"url\(|@import|//", style[0].text)
    assert not re.search(r"fetch|XMLHttp|import|//", script[0].text)
    policies = [m for m in tree.all("meta") if "http-equiv" in m.attributes]
    assert policies[0]["content"].startswith("default-src 'none'; style-src 'sha256-")


def test_what_weakens_the_numbers_is_told_before_them(report, tree):
    told = {x.all("strong")[0].text for x in tree.all("p", "notice")}
    assert ("Partial." in told) == bool(report["partial"])
    assert ("Short horizon." in told) == report["horizon"]["short"]
    assert not told - {"Partial.", "Short horizon."}
    opening = tree.all("header")[0].text
    assert report["question"] in opening
    for variant in report["variants"]:
        if variant["label"] == report["baseline"]:
            continue
        assert variant["label"] in opening
        rows = [x for x in tree.all("li") if variant["label"] in x.text]
        assert any(x.all("span", "verdict")[0].text == variant["verdict"] for x in rows)


def test_all_verdicts_are_equally_plain(tree):
    rows = tree.all("ul", "verdicts")[0].all("li")
    shapes = {tuple(x.tag for x in row.walk()) for row in rows}
    assert shapes == {("li", "span", "span")}


def test_the_table_holds_the_numbers_of_the_report(report, tree):
    table = tree.by_id("result").all("table")[0]
    rows = {row.all("th")[0].text: [x.text for x in row.all("td")] for row in table.all("tr")[1:]}
    assert set(rows) == {v["label"] for v in report["variants"]}
    means = {v["label"]: v["final"]["mean"] for v in report["variants"]}
    known = [label for label, mean in means.items() if mean is not None]
    up = report["experiment"]["metric"]["direction"] == "up"
    assert list(rows)[: len(known)] == sorted(known, key=lambda label: means[label], reverse=up)
    for variant in report["variants"]:
        verdict, apart, p, final, *_ = rows[variant["label"]]
        expected = "baseline" if variant["label"] == report["baseline"] else variant["verdict"]
        assert verdict == expected
        if variant["difference"]:
            numbers = [float(x) for x in re.findall(r"[+-]?[\d.]+", apart)]
            keys = [variant["difference"][key] for key in ("mean", "low", "high")]
            assert numbers == pytest.approx(keys, abs=6e-4)
            assert float(p) == pytest.approx(variant["difference"]["p_holm"])
        if variant["final"]["mean"] is None:
            assert "diverged" in final
        else:
            assert float(final.split()[0]) == pytest.approx(variant["final"]["mean"], abs=6e-3)


def test_baselines_in_another_metric_are_told_and_not_drawn():
    tree = html(examples.accuracy())
    curves, caption = tree.by_id("curves"), tree.by_id("curves").all("figcaption")[0].text
    assert curves.all("line", "level") == []
    assert "Held-out bits per byte at the end: adamw has the best, 0.6" in caption
    assert caption.endswith("baselines: trigram 1.71, unigram 3.25.")
    assert "above 0 is better" in tree.by_id("result").text
    drawn = html(examples.two()).by_id("curves")
    assert len(drawn.all("line", "level")) == 2  # the trigram at either width
    assert "below 0 is better" in html(examples.two()).by_id("result").text


def test_every_cell_can_be_found(report, tree):
    cells = [row.all("th")[0].text for row in tree.by_id("reproduce").all("tr")[1:]]
    assert cells == [cell["id"] for cell in report["reproduce"]["cells"]]
    commands = "\n".join(x.text for x in tree.all("pre"))
    assert report["reproduce"]["all"] in commands
    assert re.search(r"lmjax reproduce \S+ --cell \w+/lr[\d.]+/seed3$", commands, re.MULTILINE)


def test_text_is_only_ever_text():
    report = examples.two()
    as_json = json.dumps(report).replace("muon", json.dumps(HOSTILE)[1:-1])
    report = json.loads(as_json)
    for key in ("title", "question", "auxiliary", "statistics"):
        report[key] = HOSTILE
    report["environment"][HOSTILE] = {HOSTILE: HOSTILE}
    report["variants"][0]["reference"] |= dict.fromkeys(("title", "paper", "path"), HOSTILE)
    tree = html(report)
    assert [len(tree.all("script")), len(tree.all("style"))] == [1, 1]
    assert HOSTILE in tree.all("h1")[0].text
    assert HOSTILE in {x.text for x in tree.by_id("curves").all("title")}
    test_nothing_leads_out_of_the_page(tree)
    text = to_markdown(page.make(report))
    tokens = read_markdown(text)
    kinds = {token.type for token in tokens}
    assert kinds.isdisjoint({"html_inline", "html_block", "link_open", "image", "code_inline"})
    shown = [token.content for token in tokens if token.type == "heading"]
    assert shown[0] == HOSTILE
    rows = rows_of(tokens)
    assert len(rows) > 40
    for row in rows:
        assert "script" not in row[0].replace(HOSTILE, "")
    assert len([row for row in rows if row[0] == HOSTILE]) > 10


def read_markdown(text: str) -> list[Any]:
    """What a Markdown reader makes of it, with the text of each heading as one token."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        found += [token, *(token.children or [])]
    for before, inline in itertools.pairwise(found):
        if before.type == "heading_open":
            content = "".join(x.content for x in inline.children)
            found.append(Token("heading", "", 0, content=content))
    return found


def rows_of(tokens: list[Any]) -> list[list[str]]:
    """The cells of each row of each table."""
    rows: list[list[str]] = []
    for before, token in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif before.type in ("th_open", "td_open"):
            rows[-1].append("".join(x.content for x in token.children))
    return rows


def test_markdown_says_the_same(report, tree):
    text = to_markdown(page.make(report))
    assert text.startswith(f"# {report['question']}\n")
    rows = rows_of(read_markdown(text))
    for variant in report["variants"]:
        in_html = [
            [x.text for x in row.inner if isinstance(x, pages.Node)]
            for row in tree.by_id("result").all("table")[0].all("tr")
            if row.all("th")[0].text == variant["label"]
        ]
        assert in_html[0] in rows
    assert report["reproduce"]["all"] in text.splitlines()
    for variant in report["variants"]:
        for trial in variant["tuning"]["trials"]:
            assert f"| {trial['cell']} |" in text
    assert "> **Short horizon.**" in text or not report["horizon"]["short"]
    titles = set(re.findall(r"^## (.*)$", text, re.MULTILINE))
    assert {"Result", "Speed-up", "Tuning", "Costs and ranks", "Fairness"} <= titles


def test_the_same_report_is_the_same_bytes(tmp_path):
    """Also in processes that hash strings differently; another number makes another page."""
    report = examples.two()
    code = "import json,sys; from lmjax.compare.page import write_pages; "
    code += "write_pages(json.load(sys.stdin), sys.argv[1])"
    found = []
    for n, changed in enumerate((False, False, True)):
        if changed:
            report["variants"][1]["final"]["mean"] += 0.5
        folder = tmp_path / str(n)
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            cwd=ROOT,
            input=json.dumps(report),
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(n), "PYTHONPATH": str(ROOT)},
        )
        assert sorted(file.name for file in folder.iterdir()) == ["report.html", "report.md"]
        found.append([(folder / name).read_bytes() for name in ("report.html", "report.md")])
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert found[0][1] != found[2][1]


def test_a_page_is_made_without_numpy_and_without_jax():
    code = "import sys, lmjax.compare.page, lmjax.report; "
    code += "print(sorted({'jax', 'numpy', 'flax', 'tyro'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"
