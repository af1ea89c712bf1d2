"""Packed windows against a plain loop over tokens that carry the number of their document."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.data import Tokens
from lmjax.data.packing import longest_row, marks_after, marks_at, pack
from lmjax.errors import FieldError

pytestmark = pytest.mark.smoke


def plainly(document_of: list[int], start: int, length: int) -> tuple[list, list, list]:
    """(segments, positions, weights) of one window, token by token."""
    segments, positions, weights = [1], [0], []
    for t in range(start + 1, start + length):
        same = document_of[t] == document_of[t - 1]
        segments.append(segments[-1] + (0 if same else 1))
        positions.append(positions[-1] + 1 if same else 0)
    for t in range(start, start + length):
        weights.append(1.0 if document_of[t + 1] == document_of[t] else 0.0)
    return segments, positions, weights


documents = st.lists(st.integers(1, 30), min_size=3, max_size=40)


@given(sizes=documents, length=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_equals_a_plain_loop(sizes, length, seed):
    document_of = [number for number, size in enumerate(sizes) for _ in range(size)]
    if len(document_of) <= length:
        return
    boundaries = np.cumsum([0, *sizes[:-1]])
    starts = np.random.default_rng(seed).integers(0, len(document_of) - length, 6)
    found = pack(marks_at(boundaries, starts, length + 1))
    for row, start in enumerate(starts.tolist()):
        expected = plainly(document_of, start, length)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours[row].tolist() == theirs


@given(sizes=documents, length=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_an_id_that_ends_documents_tells_the_same(sizes, length):
    tokens = np.concatenate([np.array([7] * (size - 1) + [9]) for size in sizes])
    if len(tokens) <= length:
        return
    starts = np.arange(len(tokens) - length)
    windows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int32)
    by_id = pack(marks_after(windows, 9))
    by_place = pack(marks_at(np.cumsum([0, *sizes[:-1]]), starts, length + 1))
    assert all(np.array_equal(a, b) for a, b in zip(by_id, by_place, strict=True))


def test_boundaries_matter():
    starts = np.array([0, 4])
    without = pack(marks_at(np.array([0]), starts, 9))
    within = pack(marks_at(np.array([0, 6]), starts, 9))
    assert not np.array_equal(without.segments, within.segments)
    assert without.weights.min() == 1
    assert within.weights[0].tolist() == [1, 1, 1, 1, 1, 0, 1, 1]
    assert within.positions[1].tolist() == [0, 1, 0, 1, 2, 3, 4, 5]


def test_topics_of_the_docs_are_kept_apart():
    """What the documents of a text source are, and evaluation packs them as training does."""
    packed, plain = (Tokens(sequence_length=200, packing=on).load() for on in (True, False))
    assert packed.digest != plain.digest
    a, b = packed.rows(0, 0, 200), plain.rows(0, 0, 200)
    assert np.array_equal(a["inputs"], b["inputs"])
    assert a["segments"].max() > 1
    assert a["weights"].sum() < b["weights"].sum()
    whole = list(packed.evaluation(64))
    crossed = sum((batch["segments"].max(1) - 1).clip(0).sum() for batch in whole)
    unseen = len(packed.validation) - 1 - sum(batch["weights"].sum() for batch in whole)
    assert crossed > 0
    assert unseen == len(packed.validation.boundaries) - 1


def test_the_longest_row_of_first_tokens():
    for boundaries, row in ([], 0), ([0], 0), ([0, 1], 1), ([0, 4, 5, 9, 10, 11, 20], 3):
        assert longest_row(np.array(boundaries, np.int64)) == row


def one_letter_files(folder, count: int = 40) -> str:
    for number in range(count):
        (folder / f"{number:03d}.txt").write_text("a")
    return f"text:{folder}/*.txt"


def test_windows_without_a_target_are_refused(tmp_path):
    source = one_letter_files(tmp_path)
    with pytest.raises(FieldError, match="sequence_length = 1: must be > 35 under packing"):
        Tokens(source=source, packing=True, sequence_length=1).load()
    Tokens(source=source, sequence_length=1).load()
    for number in range(20):
        (tmp_path / f"{number:03d}.txt").write_text("plain")
    data = Tokens(source=source, packing=True, sequence_length=8, validation_fraction=0.16)
    with pytest.raises(FieldError, match="packing = True: each validation document of"):
        data.load()
    (tmp_path / "038.txt").write_text("ab")
    data.load()
