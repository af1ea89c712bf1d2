"""A page as a tree of elements, by the standard library's parser, and where its charts lie."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input", "base"}


class Node:
    """An element: its attributes, and what stands in it."""

    def __init__(self, tag: str, attributes: dict[str, str]):
        self.tag, self.attributes = tag, attributes
        self.inner: list[Node | str] = []

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    @property
    def styles(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        return "".join(x if isinstance(x, str) else x.text for x in self.inner)

    @property
    def own_text(self) -> str:
        """Without the words that only a pointer shows."""
        return "".join(
            x if isinstance(x, str) else x.own_text
            for x in self.inner
            if isinstance(x, str) or x.tag not in ("title", "desc")
        )

    def walk(self) -> Iterator["Node"]:
        yield self
        for x in self.inner:
            if isinstance(x, Node):
                yield from x.walk()

    def all(self, tag: str, style: str = "") -> list["Node"]:
        return [x for x in self.walk() if x.tag == tag and (not style or style in x.styles)]

    def by_id(self, name: str) -> "Node":
        (found,) = [x for x in self.walk() if x.attributes.get("id") == name]
        return found


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {tag} {attrs}"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inner.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].inner.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].inner.append(data)


def parse(html: str) -> Node:
    """The tree; fails where a tag is not closed in its place."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    assert len(builder.open) == 1, f"<{builder.open[-1].tag}> is not closed"
    return builder.open[0]


def points(node: Node) -> list[tuple[float, float]]:
    """All corners of a path."""
    numbers = [float(x) for x in re.findall(r"-?[\d.]+", node["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def reach(node: Node) -> list[tuple[float, float]]:
    """The outermost points of an element of a chart."""
    get = {name: float(x) for name, x in node.attributes.items() if name in GEOMETRY}
    if node.tag == "path":
        return points(node)
    if node.tag == "line":
        return [(get["x1"], get["y1"]), (get["x2"], get["y2"])]
    if node.tag == "circle":
        x, y, r = get["cx"], get["cy"], get["r"]
        return [(x - r, y - r), (x + r, y + r)]
    if node.tag == "rect":
        return [
            (get["x"], get["y"]),
            (get["x"] + get["width"], get["y"] + get["height"]),
        ]
    return [(get["x"], get["y"])] if node.tag == "text" else []


GEOMETRY = {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"}


def number(text: str) -> float:
    return float(text.replace(",", ""))


def marks(svg: Node, anchor: str) -> list[tuple[float, float]]:
    """(pixel, value) of the ticks: those anchored in their middle stand below a level axis."""
    at = "x" if anchor == "middle" else "y"
    shift = 0 if anchor == "middle" else -4  # the baseline of a number stands below its line
    return [
        (float(x[at]) + shift, number(x.own_text))
        for x in svg.all("text", "tick")
        if x.attributes.get("text-anchor") == anchor
    ]


def is_inside(tree: Node) -> bool:
    """Whether all charts stay in their pictures."""
    seen, good = 0, True
    for svg in tree.all("svg"):
        left, top, width, height = map(float, svg["viewbox"].split())
        corners = [corner for node in svg.walk() for corner in reach(node)]
        good &= (left, top) == (0, 0)
        good &= all(0 <= x <= width and 0 <= y <= height for x, y in corners)
        seen += len(corners)
    return good and seen > 200
