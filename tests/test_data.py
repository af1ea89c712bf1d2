"""Batches are a pure function of (seed, data, t); evaluation sees every target once."""

import itertools

import numpy as np
import pytest

from lmjax.data import Dataset, Examples, Tokens
from lmjax.data.stream import Stream
from lmjax.data.tokenizer import ByteCodec
from lmjax.data.tokens import Corpus, TokenWindows
from lmjax.errors import InputError

pytestmark = [pytest.mark.smoke, pytest.mark.bits]


@pytest.fixture(params=[Tokens(sequence_length=32), Examples()], ids=["tokens", "examples"])
def dataset(request) -> Dataset:
    return request.param.load()


def cut(train: np.ndarray, validation: np.ndarray, length: int) -> TokenWindows:
    streams = Stream("train", [train]), Stream("validation", [validation])
    corpus = Corpus(*streams, 256, ByteCodec(), "no digest")
    return TokenWindows(Tokens(sequence_length=length), corpus)


def whole(stream: Stream) -> np.ndarray:
    return stream.read(0, len(stream))


def equal(a, b) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_a_batch_depends_on_seed_and_step_alone(dataset):
    first = [dataset.batch(0, step, 8) for step in range(5)]
    backwards = [dataset.batch(0, step, 8) for step in reversed(range(5))][::-1]
    assert all(equal(a, b) for a, b in zip(first, backwards, strict=True))
    assert not equal(first[0], first[1])
    assert not equal(first[0], dataset.batch(1, 0, 8))


def test_many_batches_are_one_larger_batch(dataset):
    """What lets the loop make batches by the dozen; across the end of an epoch, too."""
    for first in (0, 11):  # 11 * 128 to 12 * 128 crosses 1,437, an epoch of the digits
        pieces = [dataset.batch(0, 16 * first + k, 8) for k in range(16)]
        whole = dataset.batch(0, first, 128)
        for name, rows in whole.items():
            assert np.array_equal(rows, np.concatenate([piece[name] for piece in pieces]))
    assert not equal(dataset.batch(0, 1, 128), whole)


def test_a_batch_has_the_contract(dataset):
    batch = dataset.batch(0, 3, 8)
    assert batch.keys() - {"token_bytes"} == {"inputs", "targets", "weights"}
    assert {len(x) for x in batch.values()} == {8}
    assert batch["weights"].shape == batch["targets"].shape
    assert batch["targets"].dtype == np.int32
    assert batch["weights"].dtype == np.float32


@pytest.mark.parametrize("data", [Tokens(sequence_length=32), Examples()])
def test_shapes_are_those_of_a_batch(data):
    def layout(batch):
        return {name: (x.shape, x.dtype) for name, x in batch.items()}

    assert layout(data.shapes(8)) == layout(data.load().batch(0, 0, 8))
    assert layout(data.shapes(8)) != layout(data.shapes(4))


def test_shapes_of_tokens_need_no_data():
    missing = Tokens(source="text:no/such/file", sequence_length=1024)
    shapes = missing.shapes(512)
    assert shapes["inputs"].shape == (512, 1024)
    assert shapes["inputs"].base.nbytes <= 4


def test_targets_are_the_next_bytes_of_the_text():
    dataset = Tokens(sequence_length=32).load()
    text = whole(dataset.train).tobytes()
    batch = dataset.batch(0, 5, 16)
    for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True):
        window = bytes([*inputs.astype(np.uint8), int(targets[-1])])
        assert window in text
        assert np.array_equal(inputs[1:], targets[:-1])


def test_an_epoch_covers_the_text_once():
    dataset = cut(np.arange(100, dtype=np.uint8), np.arange(50, dtype=np.uint8), 7)
    windows = (100 - 1) // 7
    for epoch in range(6):
        batch = dataset.batch(3, epoch, windows)
        starts = np.sort(batch["inputs"][:, 0])
        assert np.array_equal(np.diff(starts), np.full(windows - 1, 7))
    offsets = {dataset.batch(3, epoch, windows)["inputs"][:, 0].min() for epoch in range(30)}
    assert offsets == {0, 1}


@pytest.mark.parametrize("size", [33, 34, 64, 65, 66, 200])
def test_evaluation_predicts_every_byte_but_the_first_once(size):
    validation = np.arange(size, dtype=np.uint8)
    dataset = cut(validation, validation, 32)
    counted = []
    for batch in dataset.evaluation(4):
        assert batch["inputs"].shape == (4, 32)
        counted += list(batch["targets"][batch["weights"] > 0])
    assert counted == list(range(1, size))


@pytest.mark.parametrize(("limit", "told"), [(0, 199), (1, 32), (5, 160), (7, 199)])
def test_evaluation_stops_at_its_limit(limit, told):
    dataset = cut(np.arange(200, dtype=np.uint8), np.arange(200, dtype=np.uint8), 32)
    dataset.config = Tokens(sequence_length=32, validation_windows=limit)
    assert sum(batch["weights"].sum() for batch in dataset.evaluation(4)) == told
    assert dataset.evaluated == told


def test_evaluation_sees_each_held_out_example_once():
    dataset = Examples().load()
    batches = list(dataset.evaluation(100))
    assert [len(batch["targets"]) for batch in batches] == [100] * 4
    assert sum(batch["weights"].sum() for batch in batches) == 360
    targets = np.concatenate([batch["targets"] for batch in batches])[:360]
    assert np.array_equal(targets, dataset.test.targets)


@pytest.mark.parametrize("cuts", [(0, 100), (0, 50, 100), (0, 10, 70, 100)])
def test_shares_of_the_evaluation_are_the_whole(dataset, cuts):
    """The last of four batches of the digits has 60 rows, so that the share from 70 has none."""
    shares = [range(*cut) for cut in itertools.pairwise(cuts)]
    parts = [list(dataset.evaluation(100, share)) for share in shares]
    for whole, *pieces in zip(dataset.evaluation(100), *parts, strict=True):
        assert [len(piece["targets"]) for piece in pieces] == [len(share) for share in shares]
        for name, rows in whole.items():
            made = np.concatenate([piece[name] for piece in pieces])
            assert made.dtype == rows.dtype
            assert np.array_equal(made, rows)
    assert not np.array_equal(parts[0][0]["inputs"], parts[-1][1]["inputs"])


def test_the_digest_follows_the_data():
    assert Examples().load().digest == Examples().load().digest
    assert Examples().load().digest != Examples(held_out=300).load().digest


def write(path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_text_files_and_globs_are_read_in_order(tmp_path):
    write(tmp_path / "b.txt", b"world " * 20)
    write(tmp_path / "a.txt", "h\u00e9llo ".encode() * 20)
    dataset = Tokens(source=f"text:{tmp_path}/*.txt", sequence_length=4).load()
    text = whole(dataset.train).tobytes() + whole(dataset.validation).tobytes()
    assert text == "h\u00e9llo ".encode() * 20 + b"world " * 20


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"fine until here \xff", "not UTF-8 at byte 16 (0xff)"),
        (b"", "empty"),
        (b"short", "only 5 bytes"),
        (None, "no such file"),
    ],
)
def test_text_that_cannot_be_used_is_refused_in_one_line(tmp_path, content, told):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        Tokens(source=f"text:{path}", sequence_length=32).load()
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [Tokens(source="python_dosc"), Examples(source="digit")])
def test_an_unknown_data_set_names_the_nearest(data):
    with pytest.raises(InputError, match=r"nearest: (python_docs|digits)"):
        data.load()
