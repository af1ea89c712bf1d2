"""Windows of tokens: old bits kept, the same rows however they are read, bits per byte."""

import hashlib
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from lmjax.data import BPE, Dataset, Mixture, Tokens, embedded
from lmjax.data.batch import Batch
from lmjax.data.order import shuffled, words
from lmjax.data.stream import Stream
from lmjax.data.texts import find_texts
from lmjax.data.tokenize import tokenize
from lmjax.data.tokens import TokenWindows
from lmjax.errors import FieldError, InputError
from lmjax.models import GPT
from lmjax.tasks import LanguageModel
from lmjax.tasks.language_model import MARK

# Digest of python_docs, starts of its first eight windows of 128 and SHA-256 of rows 5,000 to
# 5,299 of seed 3, as they were before any other source of tokens was there.
PINNED = {
    "cpython-3.11.7": (
        "37d06970fc926e60c16dff401e441b84752446a36b6b64516c229fdec77e992c",
        [246554, 394906, 327834, 134554, 127770, 262846, 20762, 85786],
        "93b9e6cd810149df14c046dce9d3f34aa84f4e7f02593315764cae49ab3319b6",
    ),
    "cpython-3.12.1": (
        "64a4b3fd3c33d73d0d6368b5fba69d5086fa75e6f73f091235eab317fe823719",
        [175062, 394910, 327838, 134558, 127774, 317854, 20766, 85790],
        "f0cfc4d8f1f06995d2e409806b285430d3de51f11880557b4b472d608641dc61",
    ),
}
PROSE = "".join(f"Line {n} of {n * n} lines, caf\u00e9 \u2603.\n" for n in range(400))


def in_small_shards(folder: Path, tokenizer: str = "bpe:300") -> str:
    out = folder / "shards"
    tokenize("python_docs", str(out), tokenizer, 0.1, shard=10_000, quiet=True)
    return f"tokens:{out}"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "a.txt").write_text(PROSE)
    ids = np.random.default_rng(0).integers(0, 50257, 9000, dtype=np.uint16)
    (folder / "foreign.bin").write_bytes(ids.tobytes())
    shards = in_small_shards(folder)
    settings = {
        "bytes": Tokens(sequence_length=32),
        "bpe": Tokens(source=f"text:{folder}/a.txt", tokenizer=BPE(vocab_size=300)),
        "packed": Tokens(sequence_length=100, packing=True),
        "shards": Tokens(source=shards, sequence_length=64),
        "packed shards": Tokens(source=shards, sequence_length=64, packing=True),
        "foreign": Tokens(source=f"tokens:{folder}/foreign.bin", packing=True),
        "mixture": Mixture(sources=("python_docs", f"text:{folder}/a.txt"), weights=(3.0, 1.0)),
    }
    return {name: data.load() for name, data in settings.items()}


@pytest.mark.smoke
@pytest.mark.bits
@pytest.mark.skipif(embedded.INTERPRETER not in PINNED, reason="pinned on other versions of Python")
def test_python_docs_keeps_its_bits():
    digest, starts, rows = PINNED[embedded.INTERPRETER]
    dataset = Tokens().load()
    text = dataset.train.read(0, len(dataset.train)).tobytes()
    first = dataset.rows(0, 0, 8)["inputs"].astype(np.uint8)
    later = np.ascontiguousarray(dataset.rows(3, 5000, 300)["inputs"])
    assert dataset.digest == digest
    assert [text.find(window.tobytes()) for window in first] == starts
    assert hashlib.sha256(later.tobytes()).hexdigest() == rows


@pytest.mark.bits
def test_windows_are_those_of_the_formula():
    """start = offset of the epoch + T * order of the epoch, on every version of Python."""
    dataset = Tokens(sequence_length=100).load()
    text, seed = dataset.train.read(0, len(dataset.train)), 5
    count = (len(text) - 1) // 100
    batch = dataset.rows(seed, count - 40, 80)
    epoch, window = shuffled(count - 40, 80, count, seed)
    for row, (n, number) in enumerate(zip(epoch.tolist(), window.tolist(), strict=True)):
        offset = int(words(1, n, seed, "offset")[0]) % (len(text) - 100 * count)
        start = offset + 100 * number
        assert np.array_equal(batch["inputs"][row], text[start : start + 100])
        assert np.array_equal(batch["targets"][row], text[start + 1 : start + 101])
    assert set(epoch.tolist()) == {0, 1}
    assert not np.array_equal(batch["inputs"], dataset.rows(seed + 1, count - 40, 80)["inputs"])


NAMES = ["bytes", "bpe", "packed", "shards", "packed shards", "foreign", "mixture"]


@pytest.mark.parametrize("name", NAMES)
@given(start=st.integers(0, 20_000), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_rows_do_not_depend_on_how_they_are_cut(datasets, name, start, sizes):
    """So neither on the number of devices, hosts or threads, nor on what is read at once."""
    dataset = datasets[name]
    whole = dataset.rows(7, start, sum(sizes))
    begins = start + np.cumsum([0, *sizes[:-1]])
    pieces = [dataset.rows(7, int(b), n) for b, n in zip(begins, sizes, strict=True)]
    for key, rows in whole.items():
        assert np.array_equal(rows, np.concatenate([piece[key] for piece in pieces])), key
    shifted = dataset.rows(7, start + 1, sum(sizes))
    assert not all(np.array_equal(whole[key], shifted[key]) for key in whole)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_those_of_a_batch_or_of_its_known_part(datasets, name):
    dataset = datasets[name]
    batch = dataset.batch(0, 0, 3)
    config = dataset.members[0].config
    shapes = config.shapes(3)
    for key, x in shapes.items():
        assert (x.shape, x.dtype) == (batch[key].shape, batch[key].dtype), key
    assert batch.keys() - shapes.keys() <= {"token_bytes"}


@given(cuts=st.lists(st.integers(1, 499), max_size=8), size=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_pieces_read_as_one_stream(cuts, size):
    tokens = np.random.default_rng(1).integers(0, 60_000, 500, dtype=np.uint16)
    pieces = np.split(tokens, sorted(set(cuts)))
    stream = Stream("pieces", pieces)
    starts = np.arange(0, 500 - size + 1)
    expected = tokens[starts[:, None] + np.arange(size)]
    assert np.array_equal(stream.windows(starts, size), expected)
    assert np.array_equal(stream.read(3, 400), tokens[3:400])
    assert len(stream) == 500


def test_bytes_on_the_disk_are_bytes_in_memory(tmp_path):
    shards = Tokens(source=in_small_shards(tmp_path, "bytes"), packing=True).load()
    text = Tokens(packing=True).load()
    assert len(shards.train.pieces) == len(shards.train) // 10_000 + 1
    for start in (0, len(text.train) // 128 - 15):  # within an epoch, and across its end
        ours, theirs = shards.rows(2, start, 30), text.rows(2, start, 30)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    pairs = zip(shards.evaluation(8), text.evaluation(8), strict=True)
    assert all(np.array_equal(a[key], b[key]) for a, b in pairs for key in a)


@pytest.fixture(scope="module")
def bpe_run(tmp_path_factory) -> tuple[TokenWindows, LanguageModel, dict]:
    """A data set, a task and parameters that have seen nothing."""
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(PROSE)
    data = Tokens(source=f"text:{path}", sequence_length=16, tokenizer=BPE(vocab_size=400))
    model = GPT(vocab_size=512, max_length=16, depth=1, width=16, heads=2)
    params = meta.unbox(model.build().init(jax.random.key(0), jnp.zeros((1, 16), jnp.int32)))
    return data.load(), LanguageModel(model=model, showcase_length=8), params


def on_device(batch: Batch) -> Batch:
    return {name: jnp.asarray(x) for name, x in batch.items()}


def test_bits_per_byte_are_bits_over_the_bytes_of_the_text(bpe_run):
    """Against SciPy's log-softmax and the length of the text that was held out."""
    dataset, task, params = bpe_run
    bits, counted, ours = 0.0, 0.0, []
    for batch in map(on_device, dataset.evaluation(32)):
        logits, _ = task.logits(params, batch, None)
        likely = log_softmax(np.asarray(logits, np.float64), axis=-1)
        chosen = np.take_along_axis(likely, np.asarray(batch["targets"])[..., None], -1)[..., 0]
        bits -= float((chosen * batch["weights"]).sum()) / math.log(2)
        counted += batch["weights"].sum()
        ours.append(task.outcome(params, batch, None).metrics["bits_per_byte"])
    text = dataset.codec.decode(dataset.validation.read(1, len(dataset.validation)).tolist())
    total, size = (sum(float(x) for x in pair) for pair in zip(*ours, strict=True))
    assert size == len(text)
    assert total / size == pytest.approx(bits / len(text), rel=1e-5)
    assert abs(total / counted - bits / len(text)) > 1  # bits per token are another number


def test_what_has_no_known_bytes_is_judged_by_its_loss(datasets, bpe_run):
    _, task, params = bpe_run
    batch = on_device(bpe_run[0].batch(0, 0, 2))
    assert "bits_per_byte" in task.outcome(params, batch, None).metrics
    unknown = {key: x for key, x in batch.items() if key != "token_bytes"}
    assert "bits_per_byte" not in task.outcome(params, unknown, None).metrics
    assert task.headline_for(datasets["foreign"]) == "loss"
    assert task.headline_for(datasets["mixture"]) == "bits_per_byte"
    assert "token_bytes" not in datasets["foreign"].batch(0, 0, 2)
    assert datasets["mixture"].batch(0, 0, 2)["token_bytes"].min() == 1


def test_only_bytes_of_one_text_have_counting_models_beside_them(datasets):
    task = LanguageModel()
    assert task.baselines(datasets["bytes"])["trigram"] < 3
    for name in NAMES[1:]:
        assert task.baselines(datasets[name]) == {}


def test_the_showcase_is_text(bpe_run):
    dataset, task, params = bpe_run
    shown = task.showcase(params["params"], dataset, jax.random.key(1))
    given, _, _ = shown.partition("\n")[2].partition(MARK)
    assert dataset.codec.decode(dataset.validation.read(0, 32).tolist()).decode() == given


def test_the_digest_follows_text_tokenizer_and_packing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(PROSE)
    source = f"text:{path}"
    made = [
        Tokens(source=source),
        Tokens(source=source, tokenizer=BPE(vocab_size=300)),
        Tokens(source=source, tokenizer=BPE(vocab_size=310)),
        Tokens(source=source, packing=True),
    ]
    assert len({data.load().digest for data in made}) == 4
    assert made[0].load().digest == hashlib.sha256(PROSE.encode()).hexdigest()


def test_texts_of_tfds_are_windows_of_their_documents(tmp_path):
    """The embedded text, written and read by TFDS, is the embedded text."""
    ours = Tokens(source="tfds:python_docs", data_dir=str(tmp_path), packing=True).load()
    theirs = Tokens(packing=True).load()
    assert ours.digest == theirs.digest
    a, b = ours.rows(0, 0, 64), theirs.rows(0, 0, 64)
    assert all(np.array_equal(a[key], b[key]) for key in b)


def test_a_text_is_cut_between_characters(tmp_path):
    path = tmp_path / "snow.txt"
    path.write_text("\u2603" * 1000)
    dataset = Tokens(source=f"text:{path}", sequence_length=8, validation_fraction=0.1234).load()
    assert len(dataset.train) % 3 == 0
    assert len(dataset.train) + len(dataset.validation) == 3000


def test_a_file_of_that_very_name_comes_before_a_glob(tmp_path, monkeypatch):
    (tmp_path / "br[1].txt").write_text("literal")
    (tmp_path / "br1.txt").write_text("matched")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (f"text:{tmp_path}/br[1].txt", "text:~/br[1].txt"):
        assert list(find_texts(name).train()) == [b"literal"]
    (tmp_path / "br[1].txt").unlink()
    assert list(find_texts("text:~/br[1].txt").train()) == [b"matched"]


def test_a_text_that_is_gone_is_told_as_the_source(tmp_path):
    with pytest.raises(FieldError) as error:
        Tokens(source=f"text:{tmp_path}/gone", tokenizer=BPE()).load()
    assert error.value.field == "source"


def test_a_text_too_large_for_memory_says_how_to_go_on(monkeypatch):
    monkeypatch.setattr("lmjax.data.tokens.MOST_TEXT", 1000)
    with pytest.raises(InputError, match="lmjax data tokenize python_docs --out DIR"):
        Tokens(tokenizer=BPE()).load()
    Tokens().load()  # bytes take no time
    monkeypatch.setattr("lmjax.data.tokens.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="lmjax data tokenize python_docs --out DIR"):
        Tokens().load()
