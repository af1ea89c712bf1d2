"""`lmjax data tokenize`: what it writes, whole or not at all, and what it refuses."""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from tokenizers import Tokenizer

from lmjax import cli
from lmjax.data import embedded, token_index
from lmjax.data.tokenize import read_tokenizer, tokenize
from lmjax.draft import draft_of
from lmjax.errors import InputError

ROOT = Path(__file__).parents[1]


def content(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """python_docs by a small BPE, in shards of 5,000 ids."""
    out = tmp_path_factory.mktemp("tokens") / "docs"
    tokenize("python_docs", str(out), "bpe:400", 0.1, shard=5000, quiet=True)
    return out


def ids_of(folder: Path, prefix: str) -> np.ndarray:
    paths = sorted(folder.glob(f"{prefix}-?????.bin"))
    return np.concatenate([np.fromfile(path, np.uint16) for path in paths])


def test_shards_hold_the_packages_ids_of_every_document(written):
    library = Tokenizer.from_file(str(written / "tokenizer.json"))
    ids, starts = ids_of(written, "train"), np.fromfile(written / "train-documents.bin", np.int64)
    documents = np.split(ids, starts[1:])
    topics = list(embedded.python_docs().values())
    index = json.loads((written / "index.json").read_text())
    assert len(starts) == index["splits"]["train"]["documents"]["count"] > 50
    for document, text in zip(documents[:-1], topics, strict=False):
        theirs = library.encode(text.decode(), add_special_tokens=False).ids
        assert document.tolist() == [*theirs, index["end_of_text"]]
    both = np.concatenate([ids, ids_of(written, "val")])
    assert library.decode(both.tolist()).encode() == b"".join(topics)


def test_the_index_tells_the_truth(written):
    index = json.loads((written / "index.json").read_text())
    assert index["format"] == 1
    assert (index["source"], index["licence"]) == ("python_docs", "PSF-2.0")
    assert (index["dtype"], index["vocab_size"]) == ("uint16", 400)
    hashes = content(written)
    for split in index["splits"].values():
        for file in [*split["shards"], split["documents"]]:
            assert file["sha256"] == hashes.pop(file["file"])
    assert hashes.pop("tokenizer.json") == index["tokenizer_sha256"]
    assert set(hashes) == {"index.json"}
    shards = index["splits"]["train"]["shards"]
    assert [shard["count"] for shard in shards[:-1]] == [5000] * (len(shards) - 1)
    assert sum(s["text_bytes"] for s in index["splits"].values()) == len(
        b"".join(embedded.python_docs().values())
    )


def test_twice_the_same_bytes(written, tmp_path):
    tokenize("python_docs", str(tmp_path / "again"), "bpe:400", 0.1, shard=5000, quiet=True)
    assert content(tmp_path / "again") == content(written)
    tokenize("python_docs", str(tmp_path / "other"), "bpe:400", 0.2, shard=5000, quiet=True)
    assert content(tmp_path / "other") != content(written)


def test_large_vocabularies_are_written_in_32_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("lmjax.data.tokenizer.ByteCodec.vocab_size", 2**16 + 1)
    tokenize("python_docs", str(tmp_path / "out"), "bytes", 0.1, quiet=True)
    assert token_index.read_index(epath.Path(tmp_path / "out")).dtype == "uint32"
    ids = np.fromfile(tmp_path / "out" / "train-00000.bin", np.uint32)
    assert ids.astype(np.uint8).tobytes() in b"".join(embedded.python_docs().values())


def test_the_command_line(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("some text of no length " * 20)
    words = ["data", "tokenize", f"text:{tmp_path}/a.txt", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "414 train and 46 validation tokens of 256 ids from 460 bytes" in told
    assert f"train on tokens:{tmp_path}/out" in told
    assert cli.main(["data", "describe", f"tokens:{tmp_path}/out"]) == 0
    assert "every file has the SHA-256" in capsys.readouterr().out
    assert cli.main(words) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["python_dosc"], "nearest: python_docs"),
        (["text:{}/none.txt"], "no such file"),
        (["text:{}/empty.txt"], "the file is empty"),
        (["text:{}/latin.txt"], "not UTF-8 at byte 5 (0xe9)"),
        (["text:{}/short.txt"], "the validation part has no text"),
        (["python_docs", "--tokenizer", "bpe"], "write bytes, bpe:VOCAB_SIZE or"),
        (["python_docs", "--tokenizer", "bpe:many"], "write bytes, bpe:VOCAB_SIZE or"),
        (
            ["python_docs", "--tokenizer", "bpe:\u0664\u0660\u0660"],
            "write bytes, bpe:VOCAB_SIZE or",
        ),
        (["text:{}/short.txt", "--tokenizer", "bpe:1000000"], "vocab_size = 1000000: must be <= 2"),
        (["python_docs", "--validation-fraction", "0.\u0661"], "must be a number"),
        (["python_docs", "--tokenizer", "bpe:20"], "vocab_size = 20: must be >= 257"),
        (["python_docs", "--tokenizer", "{}/empty.txt"], "not a tokenizer.json"),
        (["python_docs", "--validation-fraction", "1.5"], "must be > 0 and < 1"),
        (["tfds:no_such_set", "--data-dir", "{}"], "is not prepared in"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, words, told):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"plain\xe9")
    (tmp_path / "short.txt").write_text("ab")
    out = tmp_path / "out"
    given = [word.format(tmp_path) for word in words]
    assert cli.main(["data", "tokenize", *given, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


def test_only_one_process_writes(tmp_path):
    with contextlib.suppress(StopIteration), draft_of(tmp_path / "out") as draft:
        (draft / "mine").touch()
        with pytest.raises(InputError, match="another process is writing it"):
            tokenize("python_docs", str(tmp_path / "out"), "bytes", 0.1, quiet=True)
        assert (draft / "mine").exists()
        raise StopIteration
    assert not list(tmp_path.iterdir())
    tokenize("python_docs", str(tmp_path / "out"), "bytes", 0.1, quiet=True)


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path, capsys):
    precious = tmp_path / ".out.draft" / "precious"
    precious.parent.mkdir()
    precious.touch()
    words = ["data", "tokenize", "python_docs", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    assert ".out.draft is in the way, and is no draft of lmjax's" in capsys.readouterr().err
    assert precious.exists()
    precious.rename(tmp_path / "precious")
    assert cli.main(words) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "precious"]


def test_what_is_put_into_a_draft_outlives_it(tmp_path):
    with draft_of(tmp_path / "out") as draft:
        (draft.parent / "precious").touch()
    assert (tmp_path / ".out.draft" / "precious").exists()
    assert (tmp_path / "out").is_dir()


def test_a_link_that_leads_nowhere_is_there_already(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "none")
    with pytest.raises(InputError, match="is there already"):
        tokenize("python_docs", str(tmp_path / "out"), "bytes", 0.1, quiet=True)


def test_killed_and_started_again(tmp_path, written):
    """What a killed process leaves is no data set, and the next one begins anew."""
    text = tmp_path / "large.txt"
    text.write_bytes(b"".join(embedded.python_docs().values()) * 3)
    out, words = tmp_path / "out", [f"text:{text}", str(written / "tokenizer.json")]
    code = (
        "import sys; from lmjax.data.tokenize import tokenize; "
        "tokenize(sys.argv[1], sys.argv[3], sys.argv[2], 0.1, shard=5000)"
    )
    with subprocess.Popen([sys.executable, "-c", code, *words, str(out)], cwd=ROOT) as process:
        while not list(tmp_path.glob(".out.draft/content/train-*.bin")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert list(tmp_path.glob(".out.draft/*"))
    tokenize(words[0], str(out), words[1], 0.1, shard=5000, quiet=True)
    tokenize(words[0], str(tmp_path / "unbroken"), words[1], 0.1, shard=5000, quiet=True)
    assert content(out) == content(tmp_path / "unbroken")
    assert not list(tmp_path.glob(".out*"))


def test_a_tokenizer_is_named_by_one_word(written):
    assert read_tokenizer("bytes").label == "bytes"
    assert read_tokenizer("bpe:1000").vocab_size == 1000
    path = str(written / "tokenizer.json")
    assert read_tokenizer(path).path == path


def test_texts_of_tfds_are_tokenized_as_their_documents(tmp_path):
    """The embedded text, written and read by TFDS, is the embedded text."""
    from lmjax.data import prepared

    prepared.write_embedded("tfds:python_docs", str(tmp_path / "tfds"))
    out = tmp_path / "out"
    tokenize("tfds:python_docs", str(out), "bytes", 0.1, str(tmp_path / "tfds"), quiet=True)
    tokenize("python_docs", str(tmp_path / "plain"), "bytes", 0.1, quiet=True)
    ours, plain = content(out), content(tmp_path / "plain")
    assert ours.pop("index.json") != plain.pop("index.json")  # it names the source
    assert ours == plain
