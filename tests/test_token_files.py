"""tokens:PATH: what is read, and what is refused in one line before anything compiles."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmjax import cli
from lmjax.data import Tokens
from lmjax.data.tokenize import tokenize
from lmjax.errors import FieldError, InputError


def ids(count: int, top: int = 50257, dtype: type = np.uint16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, count).astype(dtype)


def nanogpt(folder: Path, train: np.ndarray, validation: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.bin").write_bytes(train.tobytes())
    (folder / "val.bin").write_bytes(validation.tobytes())
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tokens") / "docs"
    tokenize("python_docs", str(out), "bpe:300", 0.1, shard=50_000, quiet=True)
    return out


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "docs"))


def test_files_of_nanogpt(tmp_path):
    """x = data[i : i + T], y = data[i + 1 : i + 1 + T], as its get_batch has it."""
    train, validation = ids(5000), ids(700, seed=1)
    dataset = Tokens(source=f"tokens:{nanogpt(tmp_path, train, validation)}").load()
    batch = dataset.rows(0, 0, 38)
    windows = np.lib.stride_tricks.sliding_window_view(train, 128)
    for x, y in zip(batch["inputs"], batch["targets"], strict=True):
        (start,) = np.flatnonzero((windows == x).all(1))
        assert np.array_equal(y, windows[start + 1])
    first = next(iter(dataset.evaluation(2)))
    assert np.array_equal(first["inputs"][1], validation[128:256])
    assert (dataset.codec, dataset.vocab_size) == (None, 50257)


def test_files_are_mapped_and_never_read_whole(tmp_path, written):
    foreign = nanogpt(tmp_path, ids(5000), ids(700))
    for source in (foreign, written):
        dataset = Tokens(source=f"tokens:{source}").load()
        for piece in (*dataset.train.pieces, *dataset.validation.pieces):
            assert isinstance(piece.base, np.memmap)


def test_a_glob_is_one_stream_whose_end_validates(tmp_path):
    tokens = ids(9000)
    for number, part in enumerate(np.split(tokens, [2500, 6000])):
        (tmp_path / f"part-{number}.bin").write_bytes(part.tobytes())
    data = Tokens(source=f"tokens:{tmp_path}/part-*.bin", validation_fraction=0.5)
    dataset = data.load()
    assert np.array_equal(dataset.train.read(0, len(dataset.train)), tokens[:4500])
    assert np.array_equal(dataset.validation.read(0, 4500), tokens[4500:])
    (tmp_path / "part-3.bin").write_bytes(ids(10).tobytes())
    assert data.load().digest != dataset.digest


def test_wide_ids(tmp_path):
    tokens = ids(4000, 100_000, np.uint32)
    (tmp_path / "wide.bin").write_bytes(tokens.tobytes())
    data = Tokens(source=f"tokens:{tmp_path}/wide.bin", vocab_size=100_000, width="uint32")
    dataset = data.load()
    assert np.array_equal(dataset.train.windows(np.array([5]), 9)[0], tokens[5:14])
    assert dataset.rows(0, 0, 28)["inputs"].max() > 2**16


def test_the_end_of_text_packs_a_foreign_file(tmp_path):
    tokens = ids(4000, 50)
    data = Tokens(
        source=f"tokens:{nanogpt(tmp_path, tokens, tokens)}",
        vocab_size=50,
        end_of_text=49,
        packing=True,
    )
    batch = data.load().rows(0, 0, 31)
    ends = batch["inputs"] == 49
    assert np.array_equal(batch["weights"] == 0, ends)
    assert np.array_equal(batch["segments"][:, 1:], 1 + ends[:, :-1].cumsum(1))
    other = dataclasses.replace(data, end_of_text=48).load().rows(0, 0, 31)
    assert not np.array_equal(batch["segments"], other["segments"])


def with_header(tokens: np.ndarray, count: int, magic: int = 20240520) -> bytes:
    header = np.zeros(256, np.int32)
    header[:3] = magic, 1, count
    return header.tobytes() + tokens.tobytes()


def test_files_of_llm_c_have_a_header(tmp_path):
    tokens, path = ids(5000), tmp_path / "fineweb.bin"
    path.write_bytes(with_header(tokens, 5000))
    data = Tokens(source=f"tokens:{path}")
    dataset = data.load()
    assert np.array_equal(dataset.train.read(0, 4500), tokens[:4500])
    path.write_bytes(with_header(tokens, 5001))
    with pytest.raises(InputError, match="5,000 ids, but its header says 5,001"):
        data.load()
    path.write_bytes(with_header(tokens, 5000, magic=20240801))
    with pytest.raises(FieldError, match="says uint32"):
        data.load()
    path.write_bytes(with_header(tokens, 5000, magic=1))  # not a header, then, but ids
    assert len(data.load().train) + len(data.load().validation) == 5512


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files were larger than what is read whole at each start."""
    monkeypatch.setattr("lmjax.data.token_files.WHOLE", 1000)
    monkeypatch.setattr("lmjax.data.token_files.BLOCKS", 4)
    monkeypatch.setattr("lmjax.data.token_files.BLOCK", 64)


def test_a_large_file_is_known_by_its_size_and_blocks(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    train = ids(20_000)
    data = Tokens(source=f"tokens:{nanogpt(tmp_path, train, ids(500))}")

    def digest_with(position: int) -> str:
        changed = train.copy()
        changed[position] += 1
        nanogpt(tmp_path, changed, ids(500))
        return data.load().digest

    nanogpt(tmp_path, train, ids(500))
    digest = data.load().digest
    assert digest_with(0) != digest
    assert digest_with(19_999) != digest
    assert digest_with(5000) == digest  # between two blocks: the price of a fast start
    monkeypatch.setattr("lmjax.data.token_files.WHOLE", 10**6)
    assert len({digest_with(5000), digest_with(5001)}) == 2


def test_an_id_that_no_block_showed_is_refused_when_it_is_read(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    train = ids(20_000, 300)
    train[5000] = 300
    data = Tokens(source=f"tokens:{nanogpt(tmp_path, train, ids(500, 300))}", vocab_size=300)
    dataset = dataclasses.replace(data, end_of_text=0).load()
    with pytest.raises(
        InputError, match=r"token 5000 has the id 300, beyond the vocabulary of 300"
    ):
        dataset.rows(0, 0, 156)


def test_an_id_of_32_bits_is_no_negative_one(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    train = ids(20_000, 300, np.uint32)
    train[5000] = 2**32 - 1
    folder = nanogpt(tmp_path, train, ids(500, 300, np.uint32))
    data = Tokens(source=f"tokens:{folder}", width="uint32")
    with pytest.raises(InputError, match="token 5000 has the id 4294967295"):
        data.load().rows(0, 0, 156)


def cut_short(folder: Path) -> None:
    path = folder / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])


def edited(**fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def in_split(**fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "index.json"
        index = json.loads(path.read_text())
        index["splits"]["train"] |= fields
        path.write_text(json.dumps(index))

    return edit


def in_documents(**fields: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        in_split(documents=index["splits"]["train"]["documents"] | fields)(folder)

    return edit


def respell(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + " ")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut_short, "train-00000.bin: 99,998 bytes, but index.json says 50,000 numbers of 2"),
        (lambda folder: (folder / "val-00000.bin").unlink(), "val-00000.bin: missing"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: missing"),
        (lambda folder: (folder / "index.json").write_text("{"), "index.json: cannot be read"),
        (lambda folder: (folder / "index.json").write_text("[]"), "index.json: not a JSON object"),
        (edited(format=2), "of format 2, this version reads 1"),
        (edited(splits={}), "index.json: damaged (KeyError: 'train')"),
        (edited(dtype="float32"), "damaged (dtype = 'float32': must be one of uint16, uint32"),
        (edited(vocab_size=0), "damaged (vocab_size = 0: must be >= 1)"),
        (edited(vocab_size=-5), "damaged (vocab_size = -5: must be >= 1)"),
        (edited(vocab_size=True), "damaged (vocab_size = True: must be a whole number >= 1)"),
        (edited(end_of_text=300), "damaged (end_of_text = 300: must be >= 0 and <= 299)"),
        (edited(tokenizer=5), "damaged (tokenizer = 5: must be the plain name of a file"),
        (edited(tokenizer="../t.json"), "damaged (tokenizer = '../t.json': must be the plain name"),
        (edited(tokenizer_sha256="0"), "damaged (tokenizer_sha256 = '0': must be a SHA-256"),
        (edited(source=None), "damaged (source = None: must be a text)"),
        (in_split(shards={}), "damaged (splits.train.shards = {}: must be a list of files"),
        (in_split(shards=[]), "damaged (splits.train.shards = []: must be a list of files"),
        (in_split(text_bytes=-1), "damaged (splits.train.text_bytes = -1: must be >= 0"),
        (in_split(shards=[3]), "damaged (splits.train.shards.0.file = 3: must be an object"),
        (in_documents(count=-1), "damaged (splits.train.documents.count = -1: must be >= 1"),
        (in_documents(count=0), "damaged (splits.train.documents.count = 0: must be >= 1"),
        (in_documents(count="x"), "damaged (splits.train.documents.count = 'x': must be a whole"),
        (in_documents(file=5), "damaged (splits.train.documents.file = 5: must be the plain name"),
        (in_documents(file="../a"), "splits.train.documents.file = '../a': must be the plain name"),
        (in_documents(file=".."), "splits.train.documents.file = '..': must be the plain name"),
        (edited(dtype="uint32"), "numbers of 4 bytes"),
        (respell, "not the content that index.json records"),
    ],
)
def test_a_damaged_folder_is_refused(folder, capsys, damage, told):
    damage(folder)
    assert cli.main(["train", "char_gpt", "--data.source", f"tokens:{folder}"]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert cli.main(["data", "describe", f"tokens:{folder}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def documents_of(folder: Path, starts: np.ndarray) -> None:
    """Put these in place of the starts of the training documents, with the hash that fits."""
    (folder / "train-documents.bin").write_bytes(starts.tobytes())
    digest = hashlib.sha256(starts.tobytes()).hexdigest()
    in_documents(count=len(starts), sha256=digest)(folder)


@pytest.mark.parametrize("starts", [[1, 2], [0, 9, 5], [0, 10**9]])
def test_documents_out_of_order_are_found_by_describe(folder, capsys, starts):
    documents_of(folder, np.array([0, 5, 9], np.int64))
    assert cli.main(["data", "describe", f"tokens:{folder}"]) == 0
    documents_of(folder, np.array(starts, np.int64))
    assert cli.main(["data", "describe", f"tokens:{folder}"]) == 2
    assert "documents start out of order, or beyond the tokens" in capsys.readouterr().err


def test_changed_content_is_found_by_describe(folder, capsys):
    source = f"tokens:{folder}"
    assert cli.main(["data", "describe", source]) == 0
    told = capsys.readouterr().out
    assert "python_docs as uint16 ids of a vocabulary of 300" in told
    assert Tokens(source=source).load().digest in told
    content = bytearray((folder / "train-00001.bin").read_bytes())
    content[77] ^= 1
    (folder / "train-00001.bin").write_bytes(content)
    assert cli.main(["data", "describe", source]) == 2
    assert "train-00001.bin: not the content that index.json" in capsys.readouterr().err


def test_files_without_an_index_are_described(tmp_path, capsys):
    source = f"tokens:{nanogpt(tmp_path, ids(5000), ids(700))}"
    assert cli.main(["data", "describe", source]) == 0
    told = capsys.readouterr().out
    assert f"5,000 ids of 16 bits, the largest {ids(5000).max()}, SHA-256" in told
    assert hashlib.sha256(ids(700).tobytes()).hexdigest() in told


def nothing(path: Path) -> None:
    pass


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: (path / "a.bin").write_bytes(content) and None


@pytest.mark.parametrize(
    ("make", "words", "told"),
    [
        (nothing, "tokens:{}/none", "no such file or folder; make it by `lmjax data tokenize"),
        (nothing, "tokens:{}", "holds neither index.json nor train.bin and val.bin"),
        (raw(b""), "tokens:{}/a.bin", "a.bin: the file is empty"),
        (raw(b"abc"), "tokens:{}/a.bin", "has 3 bytes, no whole number of ids of 2 bytes"),
        (raw(ids(2000).tobytes()), "tokens:{}/a.bin --data.vocab-size 50000 --data.end-of-text 0",
         "data.vocab_size = 50000: "),
        (raw(ids(2000, dtype=np.uint32).tobytes()), "tokens:{}/a.bin", "as if it were uint32"),
        (raw(ids(2000).tobytes()), "tokens:{}/a.bin --data.width uint32", "data.width is uint16"),
        (raw(ids(2000).tobytes()), "tokens:{}/a.bin --data.width uint8", "--data.width = uint8"),
        (raw(ids(2000).tobytes()), "tokens:{}/a.bin", "task.model.vocab_size = 256"),
        (raw(ids(90).tobytes()), "tokens:{}/a.bin", "data.sequence_length = 128: the training"),
        (raw(ids(2000).tobytes()),
         "tokens:{}/a.bin --task.model.vocab-size 50304 --data.sequence-length 80 "
         "--task.model.max-length 64", "must be at most task.model.max_length 64"),
        (raw(ids(2000).tobytes()), "tokens:{}/a.bin data.tokenizer:bpe",
         "data.tokenizer = 'bpe': tokens:"),
        (nothing, "text:{}/a.txt", "data.source = "),
        (nothing, "python_docs --data.packing True --data.sequence-length 1",
         "data.sequence_length = 1: must be > 1 under packing"),
        (raw(ids(2000).tobytes()), "tokens:{}/a.bin --data.packing True --data.sequence-length 1",
         "data.sequence_length = 1: must be > 1 under packing"),
        (nothing, "python_dosc", "nearest: python_docs"),
        (nothing, "python_docs --data.end-of-text 60000", "data.end_of_text = 60000: must be"),
        (nothing, "python_docs data.tokenizer:bpe --data.tokenizer.path {}/none",
         "data.tokenizer.path = "),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, capsys, make, words, told):
    make(tmp_path)
    given = words.format(tmp_path).split()
    workdir = tmp_path / "run"
    assert cli.main(["train", "char_gpt", "--workdir", str(workdir), "--data.source", *given]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not workdir.exists()
