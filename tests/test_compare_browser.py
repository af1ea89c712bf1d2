"""The pages in a headless Chromium: every chart is drawn, nothing overlaps, no request leaves.

Where no Chromium is installed this is skipped: no Python package brings one without a download of
its own. The test of the same name in test_compare_page.py reads the page without a browser.
"""

import html
import http.server
import json
import os
import re
import shutil
import subprocess
import threading

import pytest
import report_examples as examples

from lmjax.compare import page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser is installed (looked for {', '.join(NAMES)})"
)
DESKTOP, PHONE = 1280, 390  # pixels
CHARTS = ["curves", "speedup-steps", "speedup-seconds", "sensitivity", "budget", "ranks"]
FIGURES = {
    **{name: [*CHARTS, "step-time"] for name in ("two", "short_and_partial", "twelve")},
    "runs": ["validation-bits_per_byte", "validation-loss", "training"],
}
CASES = [(name, *screen) for name in FIGURES for screen in ((DESKTOP, "light"), (PHONE, "dark"))]
LEAK = '<img src="http://leak.invalid/{}.png" alt="">'

CLASH = '<text x="40" y="60">over it</text><text x="44" y="62">over it</text>'
CLASH += '<text x="-20" y="30">out of it</text>'

# Runs in the page around the frames, and reads each of them from outside: their own policy holds.
PROBE = """
const box = (e) => {
  const r = e.getBoundingClientRect();
  return [r.left, r.top, r.right, r.bottom];
};
const cut = (a, b) => Math.min(Math.min(a[2], b[2]) - Math.max(a[0], b[0]),
                               Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
function measure(frame) {
  const page = frame.contentDocument, view = frame.contentWindow;
  const drawn = [...page.querySelectorAll("svg")].filter((e) => e.getClientRects().length);
  const charts = drawn.map((svg) => {
    const whole = box(svg), words = [...svg.querySelectorAll("text")];
    const boxes = words.map(box), clashes = [], outside = [];
    boxes.forEach((a, i) => {
      const own = words[i].lastChild.data;
      if (cut([whole[0] - 1, whole[1] - 1, whole[2] + 1, whole[3] + 1], a) <
          Math.min(a[2] - a[0], a[3] - a[1]) - 0.01) outside.push(own);
      if (a[0] < whole[0] - 1 || a[2] > whole[2] + 1) outside.push(own);
      boxes.slice(0, i).forEach((b, j) => {
        if (cut([a[0], a[1] + 3, a[2], a[3] - 3], [b[0], b[1] + 3, b[2], b[3] - 3]) > 0.5)
          clashes.push([own, words[j].lastChild.data]);
      });
    });
    const lines = [...svg.querySelectorAll("path.line, line.line, circle.dot, path.stroke")];
    return { name: svg.closest("figure").id, size: [whole[2] - whole[0], whole[3] - whole[1]],
      clashes, outside, lines: lines.length,
      empty: lines.filter((e) => !(e.getTotalLength() >= 0) ||
        !["stroke", "fill"].some((p) => view.getComputedStyle(e)[p].startsWith("rgb"))).length };
  });
  const root = page.documentElement;
  return { charts, wide: [root.scrollWidth, view.innerWidth], height: root.scrollHeight,
    paper: view.getComputedStyle(page.body).backgroundColor,
    buttons: page.querySelectorAll("button").length, tables: page.querySelectorAll("table").length,
    fetched: view.performance.getEntriesByType("resource").map((e) => e.name) };
}
addEventListener("load", () => setTimeout(() => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  document.getElementById("found").textContent = JSON.stringify(found);
}, 300));
"""


class Recorder(http.server.BaseHTTPRequestHandler):
    """A proxy that lets nothing through and writes down what was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_CONNECT = do_POST = do_GET

    def log_message(self, *words) -> None:
        """Nothing is printed."""


def framed(text: str, width: int, scheme: str) -> str:
    return (
        f'<iframe srcdoc="{html.escape(text)}" width="{width}" height="800" '
        f'style="border: 0; color-scheme: {scheme}"></iframe>'
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """(case -> what the browser measured, the addresses that it asked for and the pages name)."""
    folder = tmp_path_factory.mktemp("browser")
    pages = {name: page.to_html(page.make(getattr(examples, name)())) for name in FIGURES}
    frames = {case: framed(pages[case[0]], *case[1:]) for case in CASES}
    guarded = pages["two"].replace("<main>", f"<main>{LEAK.format('guarded')}")
    free = re.sub(r"<meta http-equiv[^>]*>", "", guarded).replace("guarded", "free")
    broken = pages["two"].replace("</desc>", f"</desc>{CLASH}")
    others = {"guarded": guarded, "free": free, "broken": broken}
    frames |= {name: framed(text, DESKTOP, "light") for name, text in others.items()}
    text = "".join(frames.values())
    file = folder / "frames.html"
    file.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="color-scheme: light dark">{text}'
        f'<pre id="found"></pre><script>{PROBE}</script>'
    )
    asked: list[str] = []
    handler = type("Handler", (Recorder,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        dom = dump(file.as_uri(), server.server_address[1], str(folder))
        server.shutdown()
    told = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert told, dom[-2000:]
    found = json.loads(html.unescape(told[1]))
    # The browser asks its makers for this and that by itself.
    named = [x for x in asked if re.sub(r"^\w+://|(?<!:|/)[:/].*$", "", x) in text]
    return dict(zip(frames, found, strict=True)), named


def dump(address: str, port: int, folder: str) -> str:
    """The page after its scripts have run."""
    assert BROWSER is not None
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--proxy-server=127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>"),
        *("--virtual-time-budget=20000", f"--user-data-dir={folder}/profile", "--dump-dom"),
    ]
    done = subprocess.run(
        [*command, address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "HOME": folder},
    )
    return done.stdout


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_chart_is_drawn_once_and_nothing_overlaps(seen, case):
    found, (name, width, _) = seen[0][case], case
    assert [x["name"] for x in found["charts"]] == FIGURES[name]
    for chart in found["charts"]:
        assert min(chart["size"]) > 60, chart
        assert chart["size"][0] > 0.35 * width, chart
        assert chart["lines"] > 0, chart
        assert chart["empty"] == 0, chart
        assert chart["clashes"] == [], chart
        assert chart["outside"] == [], chart


def test_what_overlaps_or_leaves_its_picture_is_noticed(seen):
    """Without which the test above would show nothing."""
    for chart in seen[0]["broken"]["charts"]:
        assert ["over it", "over it"] in chart["clashes"]
        assert chart["outside"] == ["out of it"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_page_is_as_wide_as_the_screen_and_in_its_colours(seen, case):
    found, (_, width, scheme) = seen[0][case], case
    assert found["wide"][0] <= found["wide"][1] == width
    assert found["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    assert found["height"] > 1500
    assert found["buttons"] == found["tables"] > 3  # its own script has run under its policy


def test_no_request_leaves_the_page(seen):
    """Not even one that is planted in it; without the policy the same one is seen to leave."""
    found, asked = seen
    for case in CASES:
        assert found[case]["fetched"] == []
    assert asked == ["http://leak.invalid/free.png"]
