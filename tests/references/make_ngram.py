"""Writes ngram.json: bits per byte of nltk's Witten-Bell n-grams on a short text.

    pip install nltk==3.10.4
    python make_ngram.py ngram.json

on Python 3.11. nltk.lm.WittenBellInterpolated computes, for a history h seen c(h) times and
followed by N(h) distinct symbols,
    p(w | h) = (1 - g) c(h w) / c(h) + g p(w | h'),   g = N(h) / (N(h) + c(h)),
which is Chen and Goodman's eq. 17, and takes p(w | h') as it stands for a history never seen. But
its recursion ends at the unigram, which it leaves unsmoothed: c(w) / c. To end it one order lower,
at the uniform distribution over 256 bytes, nltk is used unmodified, one order up, on other n-grams:

  * an anchor symbol stands between each history and the byte after it, so that a history is
    (oldest byte, ..., newest byte, anchor), dropping its oldest symbol leads to (anchor,) and
    p(w | (anchor,)) is the smoothed unigram;
  * the plain unigrams fed to nltk are each of the 256 bytes once, so that the recursion ends at
    1 / 256.

An n-gram never reaches out of the training text, nothing is padded and no symbol is unknown. The
first byte of the held-out text is context only; its second byte has a history of one.
"""

# pyright: reportMissingImports=false
import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import nltk
from nltk.lm import WittenBellInterpolated

SYMBOLS = [chr(value) for value in range(256)]
ANCHOR = "anchor"
ORDERS = (1, 2, 3)

SUBJECTS = (
    "the old miller",
    "a grey heron",
    "her youngest brother",
    "the ferryman",
    "every lamp in the street",
    "nobody on the hill",
    "a cart of apples",
)
VERBS = ("waited for", "could not find", "carried", "remembered", "walked slowly past", "sold")
OBJECTS = (
    "the river",
    "three wooden boxes",
    "a letter from the coast",
    "the winter",
    "what the rain had left",
    "the last house before the bridge",
)
ENDINGS = (".", ", and then slept.", "; it was late.", " once more.", "?")
UNSEEN_SUBJECTS = ("Queen Zoë", "item #42", "a fox")  # with bytes that the training text lacks


def text(rng: random.Random, subjects: tuple[str, ...], sentences: int) -> str:
    parts = []
    for _ in range(sentences):
        words = [rng.choice(subjects), rng.choice(VERBS), rng.choice(OBJECTS)]
        parts.append(" ".join(words).capitalize() + rng.choice(ENDINGS))
    return "\n".join(parts) + "\n"


def anchored(train: str, order: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of the docstring, for every order up to `order`."""
    yield from ((symbol,) for symbol in SYMBOLS)
    for length in range(1, order + 1):
        for start in range(len(train) - length + 1):
            *history, byte = train[start : start + length]
            yield (*history, ANCHOR, byte)


def bits_per_byte(train: str, held_out: str, order: int) -> float:
    model = WittenBellInterpolated(order + 1)
    model.fit([anchored(train, order)], vocabulary_text=[*SYMBOLS, ANCHOR])
    bits = 0.0
    for target in range(1, len(held_out)):
        history = held_out[max(0, target - order + 1) : target]
        bits -= model.logscore(held_out[target], (*history, ANCHOR))
    return bits / (len(held_out) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write ngram.json.")
    parser.add_argument("output", type=Path, help="ngram.json")
    arguments = parser.parse_args()
    rng = random.Random(0)
    train = text(rng, SUBJECTS, 60)
    held_out = text(rng, SUBJECTS + UNSEEN_SUBJECTS, 12)
    result = {
        "source": f"nltk {nltk.__version__}",
        "encoding": "latin-1",
        "train": train,
        "held_out": held_out,
        "bits_per_byte": [bits_per_byte(train, held_out, order) for order in ORDERS],
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
