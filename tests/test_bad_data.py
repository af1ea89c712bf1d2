"""Data that is refused before a device is touched: a line of the table each."""

import json
from pathlib import Path

import numpy as np
import pytest
from refusals import refused


def write(name: str, content: bytes | str):
    """What puts a file into the folder of a case."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def ids(count: int, dtype: str = "uint16", top: int = 256) -> bytes:
    return (np.arange(count) % top).astype(dtype).tobytes()


def both(*makes):
    """Several of them."""

    def make(folder: Path) -> None:
        for each in makes:
            each(folder)

    return make


def images(shape=(6, 6), classes=("cat", "dog"), **files: bytes):
    """Two images of each class, some with other content, named cat0 and so on."""

    def make(folder: Path) -> None:
        from PIL import Image

        for name in classes:
            (folder / "im" / name).mkdir(parents=True)
            for number in range(2):
                path = folder / "im" / name / f"{number}.png"
                Image.fromarray(np.zeros(shape, np.uint8)).save(path)
                if f"{name}{number}" in files:
                    path.write_bytes(files[f"{name}{number}"])

    return make


def index(**fields: object):
    """A folder of tokens that says what it likes."""
    file = {"file": "a.bin", "count": 4, "sha256": "0" * 64}
    split = {"text_bytes": 4, "shards": [file], "documents": file}
    held = {
        "format": 1,
        "source": "x",
        "licence": "x",
        "tokenizer": "bytes",
        "tokenizer_sha256": "0" * 64,
        "vocab_size": 256,
        "end_of_text": None,
        "dtype": "uint16",
        "splits": {"train": split, "validation": split},
    }
    return write("ids/index.json", json.dumps(held | fields))


def nothing(folder: Path) -> None:
    pass


TEXT = write("a.txt", "one text, and nothing else. " * 200)
SMALL = "--data.sequence-length 8 --task.model.max-length 8"
IDS = "--data.vocab-size 256 --data.end-of-text 0"
LM = [  # what is there, words after `train char_gpt`, what is told
    # names
    (nothing, "--data.source python_dosc", "unknown data set 'python_dosc'; nearest: python_docs"),
    (nothing, "--data.source =", "unknown data set '='; known: python_docs, python_stdlib"),
    (nothing, "--data.source text:none.txt", "data.source = 'text:none.txt': no such file"),
    (nothing, "--data.source text:", "data.source = 'text:': no such file"),
    (nothing, "--data.source text:*.txt", "data.source = 'text:*.txt': no such file"),
    (nothing, "--data.source tokens:none", "data.source = 'tokens:none': no such file or folder"),
    (nothing, "--data.source tfds:nothing --data.data-dir .", "tfds:nothing is not prepared in ."),
    (nothing, "--data.source tfds:../x", "'tfds:../x' is no data set of TFDS: write tfds:NAME"),
    # texts
    (write("a.txt", ""), "--data.source text:a.txt", "a.txt: the file is empty"),
    (write("a.txt", b"caf\xe9"), "--data.source text:a.txt", "a.txt: not UTF-8 at byte 3 (0xe9)"),
    (write("a.txt", "text".encode("utf-16")), "--data.source text:a.txt", "not UTF-8 at byte 0"),
    (write("a.txt", "ab"), "--data.source text:a.txt", "data.sequence_length = 128: the"),
    (both(TEXT, write("b.txt", b"\0\xff")), "--data.source text:*.txt", "b.txt: not UTF-8 at"),
    (TEXT, "--data.source text:a.txt --data.sequence-length 0", "sequence_length = 0: must be >="),
    (TEXT, "--data.source text:a.txt --data.sequence-length 129",
     "data.sequence_length = 129: must be at most task.model.max_length 128"),
    (TEXT, "--data.source text:a.txt --data.validation-fraction 0",
     "data.validation_fraction = 0.0: must be > 0 and < 1"),
    (TEXT, "--data.source text:a.txt --data.validation-fraction 1e-6",
     "the validation part of 'text:a.txt' has only 0 bytes"),
    (nothing, f"--data.packing True {SMALL} --data.sequence-length 1",
     "data.sequence_length = 1: must be > 1 under packing"),  # no target at all
    (TEXT, "--data.source text:** --workdir .", "reads what lies there"),
    # token ids
    (write("a.bin", b""), "--data.source tokens:a.bin", "a.bin: the file is empty"),
    (write("a.bin", b"abc"), "--data.source tokens:a.bin", "data.width = 'uint16': a.bin has 3"),
    (write("a.bin", ids(4000, top=300)), f"--data.source tokens:a.bin {IDS}",
     "data.vocab_size = 256: a.bin holds the id 299, so it must be at least 300"),
    (write("a.bin", ids(4000, "uint32")), f"--data.source tokens:a.bin {IDS}",
     "data.width = 'uint16': every second id of a.bin is 0, as if it were uint32"),
    (write("a.bin", ids(4000)), f"--data.source tokens:a.bin {IDS} --data.width uint8",
     "--data.width = uint8: must be one of uint16, uint32"),
    (write("a.bin", ids(4000)), "--data.source tokens:a.bin --data.vocab-size 0",
     "data.vocab_size = 0: must be >= 1"),
    (write("a.bin", ids(4000)), "--data.source tokens:a.bin --data.end-of-text 50257",
     "data.end_of_text = 50257: must be >= 0 and <= 50256"),
    (write("a.bin", ids(4000)), "--data.source tokens:a.bin",
     "task.model.vocab_size = 256: must be at least 50257"),
    (write("a.bin", ids(20)), f"--data.source tokens:a.bin {IDS}",
     "data.sequence_length = 128: the training part of"),
    (write("ids/train.bin", ids(4000)), f"--data.source tokens:ids {IDS}", "nor val.bin"),
    (write("ids/index.json", "{"), "--data.source tokens:ids", "index.json: cannot be read"),
    (index(), "--data.source tokens:ids", "ids/a.bin: missing, though index.json lists it"),
    (both(index(), write("ids/a.bin", b"abc")), "--data.source tokens:ids", "a.bin: 3 bytes, but"),
    (index(dtype="float32"), "--data.source tokens:ids", "dtype = 'float32': must be one of"),
    (both(index(tokenizer="b.json"), write("ids/b.json", b"\xff"), write("ids/a.bin", ids(4)),
     index(tokenizer="b.json", splits={k: {"text_bytes": 4, "shards": [
         {"file": "a.bin", "count": 4, "sha256": "0" * 64}], "documents":
         {"file": "a.bin", "count": 1, "sha256": "0" * 64}} for k in ("train", "validation")})),
     "--data.source tokens:ids", "ids/b.json: cannot be read (not UTF-8)"),
    # vocabularies
    (nothing, "data.tokenizer:bpe --data.tokenizer.path none.json",
     "data.tokenizer.path = 'none.json': cannot be read"),
    (write("t.json", "{}"), "data.tokenizer:bpe --data.tokenizer.path t.json", "t.json: not a tok"),
    (write("t.json", "[" * 100_000), "data.tokenizer:bpe --data.tokenizer.path t.json", "not a t"),
    (nothing, "data.tokenizer:bpe --data.tokenizer.vocab-size 256",
     "data.tokenizer.vocab_size = 256: must be >= 257"),
    # mixtures
    (nothing, "data:mixture --data.weights 1", "data.weights = (1.0,): must be one for each of"),
    (nothing, "data:mixture --data.weights 1 0", "data.weights = 0.0: must be > 0"),
    (nothing, "data:mixture --data.weights 1 nan", "data.weights = nan: must be a finite number"),
    (nothing, "data:mixture --data.sources python_docs python_docs", "must name at least one, and"),
]  # fmt: skip
EXAMPLES = [  # what is there, words after `train digits_fcn`, what is told
    (nothing, "--data.source digit", "unknown data set 'digit'; nearest: digits"),
    (nothing, "--data.held-out 0", "data.held_out = 0: must be >= 1"),
    (nothing, "--data.held-out 1700", "data.held_out = 1700: must be >= 10 and <= 898"),
    (nothing, "--data.held-out 5", "data.held_out = 5: must be >= 10"),
    (nothing, "--data.image-size -1", "data.image_size = -1: must be >= 0"),
    (nothing, "--data.memory-gb nan", "data.memory_gb = nan: must be a finite number >= 0"),
    (nothing, "--data.source images:none", "data.source = 'images:none': no such folder"),
    (nothing, "--data.source images:.", ".: holds no folders, but needs a folder for each of two"),
    (images(classes=("cat",)), "--data.source images:im", "holds the one class cat, but needs"),
    (images(cat0=b"GIF89a"), "--data.source images:im", "im/cat/0.png: cannot be read as an image"),
    (images(dog1=b""), "--data.source images:im", "im/dog/1.png: cannot be read as an image"),
    (write("im/cat/0.gif", b""), "--data.source images:im", "holds the one class cat"),
    (both(images(), write("im/emu/note.txt", "x")), "--data.source images:im", "neither PNG nor"),
    (both(images(), lambda folder: (folder / "im" / "emu").mkdir()), "--data.source images:im",
     "im/emu: the folder of this class is empty"),
    (images(), "--data.source images:im --data.held-out 3", "data.held_out = 3: must be >= 2 and"),
    (images(), "--data.source images:im --data.image-size 8193", "data.image_size = 8193: must be"),
]  # fmt: skip
COMMANDS = [  # what is there, all words, what is told
    (nothing, "data describe digit", "unknown data set 'digit'; nearest: digits"),
    (nothing, "data tokenize python_docs --out o --tokenizer bpe:256", "vocab_size = 256: must"),
    (nothing, f"data tokenize python_docs --out o --tokenizer bpe:{'9' * 5000}", "no such file; w"),
    (write("a.txt", b"\xff"), "data tokenize text:a.txt --out o", "a.txt: not UTF-8 at byte 0"),
    (write("q.jsonl", "{}"), "eval x --choices q.jsonl", "q.jsonl:1: no field context, choices"),
    (write("q.jsonl", '{"context": "", "choices": ["a", ""], "answer": 0}'),
     "eval x --choices q.jsonl", "q.jsonl:1: choices[1] = '': must not be empty"),
    (write("s.json", '{"adamw": {"learning_rate": "x"}}'),
     "compare char_gpt_tiny --space s.json", "must be a list of values, or a grid"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "words", "told"), LM)
def test_what_is_no_text(tmp_path, make, words, told):
    make(tmp_path)
    refused(tmp_path, ["train", "char_gpt", *words.split()], told)


@pytest.mark.parametrize(("make", "words", "told"), EXAMPLES)
def test_what_are_no_labelled_examples(tmp_path, make, words, told):
    make(tmp_path)
    refused(tmp_path, ["train", "digits_fcn", *words.split()], told)


@pytest.mark.parametrize(("make", "words", "told"), COMMANDS)
def test_other_commands(tmp_path, make, words, told):
    make(tmp_path)
    refused(tmp_path, words.split(), told)


def test_a_set_of_tfds_with_a_damaged_record_hides_no_other(tmp_path, capsys):
    from lmjax import cli

    for name, text in (("one", "[]"), ("two", '{"splits": 3}'), ("three", "[" * 100_000)):
        write(f"{name}/1.0.0/dataset_info.json", text)(tmp_path)
    write("four/1.0.0/dataset_info.json", '{"splits": []}')(tmp_path)
    assert cli.main(["data", "list", "--data-dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for name in ("one", "two", "three"):
        line = next(line for line in told.splitlines() if line.startswith(f"tfds:{name}"))
        assert "damaged: dataset_info.json" in line
    assert "0 examples, 0.0 MB" in told
