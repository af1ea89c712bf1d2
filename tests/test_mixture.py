"""Mixtures: exact shares, every source without gaps, the same rows however they are read."""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax import train
from lmjax.data import BPE, Examples, Mixture, Tokens
from lmjax.data.batch import Batch, Dataset
from lmjax.data.mixture import BLOCK, Mixed, block_order, quotas
from lmjax.errors import FieldError, InputError
from lmjax.parts import validate
from lmjax.record import from_record, to_record

pytestmark = [pytest.mark.smoke, pytest.mark.bits]


PINNED = [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


class Numbers(Dataset):
    """Rows that say which set and which position they are of."""

    def __init__(self, number: int):
        self.name = self.digest = self.summary = f"set {number}"
        self.number = number

    def rows(self, seed: int, start: int, count: int) -> Batch:
        position = np.arange(start, start + count)
        return {"inputs": np.stack([np.full(count, self.number), position], axis=1)}

    def evaluation(self, batch_size: int, share: range | None = None) -> Iterator[Batch]:
        yield {"inputs": np.array([[self.number, -1]])}


def mixed(*weights: float) -> Mixed:
    return Mixed([Numbers(n) for n in range(len(weights))], quotas(weights))


weights = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5)


@given(weights=weights)
@settings(max_examples=100, deadline=None)
def test_quotas_are_the_nearest_whole_numbers(weights):
    found = np.array(quotas(weights))
    exact = np.array(weights) / sum(weights) * BLOCK
    assert found.sum() == BLOCK
    assert np.abs(found - exact).max() < 1


def test_shares_whose_sum_overflows_are_shares():
    assert quotas((1e308, 1e308, 2e307)) == quotas((10.0, 10.0, 2.0))


@given(weights=weights, seed=st.integers(0, 2**32 - 1), first=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_every_block_has_its_shares_and_no_source_has_gaps(weights, seed, first):
    dataset, quota = mixed(*weights), quotas(weights)
    which, position = dataset.rows(seed, first * BLOCK, 2 * BLOCK)["inputs"].T
    for number, share in enumerate(quota):
        own = position[which == number]
        assert np.array_equal(own, np.arange(first * share, (first + 2) * share))
        assert (which[:BLOCK] == number).sum() == share


@given(start=st.integers(0, 10**9), sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_any_cut_gives_the_same_rows(start, sizes):
    dataset = mixed(0.6, 0.3, 0.1)
    whole = dataset.rows(1, start, sum(sizes))["inputs"]
    begins = start + np.cumsum([0, *sizes[:-1]])
    pieces = [dataset.rows(1, int(b), n)["inputs"] for b, n in zip(begins, sizes, strict=True)]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_the_order_is_shuffled_pinned_and_of_the_seed():
    order, _ = block_order(quotas([3.0, 1.0]), 0, 0)
    assert order[:24].tolist() == PINNED
    assert not np.array_equal(order, block_order(quotas([3.0, 1.0]), 1, 0)[0])
    assert not np.array_equal(order, block_order(quotas([3.0, 1.0]), 0, 1)[0])
    runs = np.flatnonzero(np.diff(order))  # a shuffle of 3,072 and 1,024 has about 1,536 changes
    assert 1400 < len(runs) < 1670


def test_a_mixture_is_of_its_sources_rows():
    data = Mixture(sources=("python_docs", "python_stdlib"), weights=(1.0, 2.0))
    dataset, parts = data.load(), [part.load() for part in data.parts()]
    which, own = dataset.places(3, 10_000, 50)
    batch = dataset.rows(3, 10_000, 50)
    assert set(which.tolist()) == {0, 1}
    for row, (number, position) in enumerate(zip(which.tolist(), own.tolist(), strict=True)):
        expected = parts[number].rows(3, position, 1)
        assert all(np.array_equal(batch[key][row], expected[key][0]) for key in batch)
    held_out = sum(part.evaluated for part in parts)
    assert sum(batch["weights"].sum() for batch in dataset.evaluation(64)) == held_out


def test_a_run_on_a_mixture_is_told_of_each_source(tiny_gpt, tmp_path):
    (tmp_path / "a.txt").write_text("neither of the docs nor of the library. " * 40)
    sources = ("python_docs", f"text:{tmp_path}/a.txt")
    each = Tokens(sequence_length=16, validation_windows=30)
    data = Mixture(sources=sources, each=each)
    run = dataclasses.replace(tiny_gpt, data=data, steps=2)
    found = train.run(run, str(tmp_path / "run"), quiet=True)["validation"]
    sizes = [member.evaluated for member in data.load().members]
    parts = [found[f"loss/{source}"] for source in sources]
    assert found["loss"] == pytest.approx(np.average(parts, weights=sizes), rel=1e-6)
    assert abs(found["loss"] - np.mean(parts)) > 1e-4
    for key in ("", *(f"/{source}" for source in sources)):
        assert found[f"perplexity{key}"] == pytest.approx(np.exp(found[f"loss{key}"]))
    assert sizes[0] != sizes[1]


def test_weights_and_sources_decide_the_digest():
    data = Mixture(each=Tokens(sequence_length=64))
    others = [
        dataclasses.replace(data, weights=(0.6, 0.4)),
        dataclasses.replace(data, sources=("python_stdlib", "python_docs")),
    ]
    digests = {one.load().digest for one in [data, *others]}
    assert len(digests) == 3
    assert from_record(Mixture, json.loads(json.dumps(to_record(data)))) == data


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (Mixture(weights=(1.0,)), "one for each of the 2 sources"),
        (Mixture(weights=(1.0, -1.0)), "must be > 0"),
        (Mixture(weights=(1e308, 1e308)), "must be finite in float32"),
        (Mixture(weights=(1.0, 1e-9)), "below 1 / 4096"),
        (Mixture(sources=("a", "a")), "none twice"),
        (Mixture(sources=(), weights=()), "at least one"),
        (Mixture(each=Mixture()), "must be data with a field `source`"),
        (Mixture(each=Tokens(sequence_length=0)), r"each\.sequence_length = 0: must be >= 1"),
    ],
)
def test_what_cannot_be_mixed_is_refused(data, told):
    with pytest.raises(FieldError, match=told):
        validate(data)


def test_a_source_that_cannot_be_read_is_refused():
    data = Mixture(sources=("python_docs", "text:no/such/file"))
    with pytest.raises(FieldError, match=r"each\.source = 'text:no/such/file': no such file"):
        data.load()


def test_sets_of_other_shapes_are_refused():
    sources = ("digits", "breast_cancer")
    data = Mixture(sources=sources, each=Examples(held_out=100))
    with pytest.raises(FieldError, match="are not of the shape"):
        data.load()


def test_sets_of_other_vocabularies_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(f"{name}{name} likes numbers {name * 3}. " * 200)
    sources = (f"text:{tmp_path}/a", f"text:{tmp_path}/b")
    each = Tokens(tokenizer=BPE(vocab_size=270))
    with pytest.raises(InputError, match="one vocabulary for all"):
        Mixture(sources=sources, each=each).load()
    same = Mixture(sources=sources, each=Tokens()).load()
    assert same.alphabet == same.members[1].alphabet
