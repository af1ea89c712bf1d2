"""The byte n-grams against nltk's, stored by references/make_ngram.py, and as distributions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmjax.tasks.ngram import NAMES, bits_per_byte

TOLERANCE = 1e-9  # bits
VISIBLE = 1e-6  # what one byte must change

SMALL_TEXT = b"abcab bca cab abca"  # five distinct bytes, in histories some of which are missing
UNSEEN = ord("z")


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "references" / "ngram.json").read_text())


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("latin-1"), np.uint8)


def distance(stored: dict[str, Any], train: np.ndarray, text: np.ndarray) -> list[float]:
    """Of each order, in bits per byte."""
    found = bits_per_byte(train, text)
    theirs = dict(zip(NAMES, stored["bits_per_byte"], strict=True))
    return [abs(found[name] - theirs[name]) for name in NAMES]


def test_equals_nltk(stored: dict[str, Any]) -> None:
    assert set(stored["held_out"]) - set(stored["train"])  # bytes never seen are among them
    found = distance(stored, as_bytes(stored["train"]), as_bytes(stored["held_out"]))
    assert max(found) < TOLERANCE


@pytest.mark.parametrize("change", ["train", "held_out"])
def test_one_byte_more_or_less_shows(stored: dict[str, Any], change: str) -> None:
    texts = {name: as_bytes(stored[name]) for name in ("train", "held_out")}
    texts[change] = texts[change][1:]
    assert min(distance(stored, texts["train"], texts["held_out"])) > VISIBLE


def probability(order: int, history: bytes, byte: int) -> float:
    """p(byte | history), from the bits of a text with and without that last byte."""
    name, train = NAMES[order - 1], np.frombuffer(SMALL_TEXT, np.uint8)
    with_byte = np.frombuffer(history + bytes([byte]), np.uint8)
    bits = len(history) * bits_per_byte(train, with_byte)[name]
    if len(history) > 1:
        bits -= (len(history) - 1) * bits_per_byte(train, with_byte[:-1])[name]
    return 2.0**-bits


@pytest.mark.parametrize(
    ("order", "history"), [(1, b"a"), (2, b"a"), (2, b"z"), (3, b"ab"), (3, b"ba"), (3, b"za")]
)
def test_probabilities_sum_to_one(order: int, history: bytes) -> None:
    """Bytes that the text lacks all get the same, so that one of them stands for all."""
    seen = sorted(set(SMALL_TEXT))
    unseen = probability(order, history, UNSEEN)
    assert probability(order, history, UNSEEN + 1) == pytest.approx(unseen, abs=1e-12)
    total = sum(probability(order, history, byte) for byte in seen)
    assert total + (256 - len(seen)) * unseen == pytest.approx(1, abs=1e-9)
    assert total < 1 - 1e-6
