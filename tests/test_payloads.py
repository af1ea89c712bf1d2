"""Files that would run code, or fill the memory, in other readers: nothing runs, little is taken.

Each payload that runs code leaves a file behind where it does. That they do is shown first.
"""

import ast
import io
import json
import pickle
import pickletools
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import ROOT, outcome, refused

RAN = "ran"  # the file that a payload leaves
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path(RAN),)


def pickled(protocol: int) -> bytes:
    return pickle.dumps(Bomb(), protocol)


def numpy_objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], object), allow_pickle=True)
    return file.getvalue()


def zipped(*files: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return file.getvalue()


YAML = b"!!python/object/apply:os.mkdir [ran]\n"
MODULE = "from pathlib import Path\nPath('ran').touch()\n"
MSGPACK = b"\xdd\xff\xff\xff\xff"  # a list of 4 billion things
TORCH = zipped(("archive/data.pkl", pickled(2)), ("archive/version", b"3\n"))
ZIP_BOMB = zipped(("archive/data.pkl", bytes(2**24)), ("zeros", bytes(2**26)))
DEEP = b"[" * 1_000_000
SPARSE = 2**36  # bytes of a file that takes none of the disk


def weights(content: bytes | int, name: str = WHOLE):
    """A folder to start from, and the words that do."""

    def make(folder: Path) -> list[str]:
        placed("model/config.json", b'{"model_type": "gpt2"}')(folder)
        start = ["train", "char_gpt", "--workdir", "run", "--init-from", "model"]
        return placed(f"model/{name}", content, *start)(folder)

    return make


def tensors(text: str | bytes, size: int | None = None, data: int = 8) -> bytes:
    """A safetensors file with this header, which may lie about its own size."""
    header = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(header) if size is None else size) + header + bytes(data)


def entries(**found: tuple[list[Any], list[Any]]) -> bytes:
    """Of these tensors: (shape, offsets)."""
    held = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        for name, (shape, offsets) in found.items()
    }
    return tensors(json.dumps(held))


def placed(name: str, content: bytes | int, *words: str):
    """A file, or one of so many zeros that takes no disk, and the words that read it."""

    def make(folder: Path) -> list[str]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if isinstance(content, int):
                file.truncate(content)
            else:
                file.write(content)
        return list(words)

    return make


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG of so many pixels, whatever they are."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def pictures(content: bytes):
    """A folder of images, all of them this one."""

    def make(folder: Path) -> list[str]:
        for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
            placed(f"im/{name}.png", content)(folder)
        return ["train", "digits_fcn", "--data.source", "images:im", "--data.held-out", "2"]

    return make


def tokenizer(number: int) -> bytes:
    """A tokenizer.json whose last token has this id."""
    from lmjax.data.bpe import byte_of_letter

    vocabulary = byte_of_letter() | {"ab": number}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    held = {"version": "1.0", "added_tokens": [], "pre_tokenizer": level, "model": model}
    return json.dumps(held).encode()


def features(text: str):
    """A set of TFDS with these features, beside a module `evil`."""

    def make(folder: Path) -> list[str]:
        placed("evil.py", MODULE.encode())(folder)
        info = {"name": "mnist", "version": "3.0.1", "fileFormat": "array_record"}
        placed("sets/mnist/3.0.1/dataset_info.json", json.dumps(info).encode())(folder)
        placed("sets/mnist/3.0.1/features.json", text.encode())(folder)
        return ["train", "digits_fcn", "--data.source", "tfds:mnist", "--data.data-dir", "sets"]

    return make


def named(path: str, held: Any, *words: str):
    """A record that names the module `evil`, which lies beside it."""

    def make(folder: Path) -> list[str]:
        placed("evil.py", MODULE.encode())(folder)
        return placed(path, json.dumps(held).encode(), *words)(folder)

    return make


def run_of(experiment: str, part: str):
    """A run of such an experiment."""
    held = {"experiment": experiment, "config": {"part": part}, "data": {"name": "", "digest": ""}}
    return named("run/config.json", {**held, "tokenizer": None, "batch": {}}, "eval", "run")


PLAN = {  # whole but for its plan
    **dict.fromkeys(("lmjax", "data_name", "command", "begun"), ""),
    "strategy": {},
    "strategy_measured": {},
    "environment": {
        **{name: {} for name in ("variables", "settings", "compiler", "versions")},
        "devices": {"count": 1, "kind": "cpu"},
        "machine": {"cores": [0, 1], "processor_flags": None},
    },
    "code": {"files": {}, "parts": {}, "tree": "", "commit": None, "changed": []},
    "plan": {"name": "evil.py"},
}
NESTED = json.dumps({"features": {"a": {"type": "evil.Feature", "content": {}}}})
BPE = ["train", "char_gpt", "data.tokenizer:bpe", "--data.tokenizer.path", "t.json"]
LM = ["train", "char_gpt", "--data.source"]
SPACE = ["compare", "char_gpt_tiny", "--space", "s.json"]
CHOICES = ["eval", "x", "--choices", "q.jsonl"]
PAYLOADS = {  # what puts it in place and says the words -> what is told
    # pickles, whatever they are called
    "pickle 2 as safetensors": (weights(pickled(2)), "a pickle, which could run code when read"),
    "pickle 4 as safetensors": (weights(pickled(4)), "a pickle, which could run code when read"),
    "pickle 5 as safetensors": (weights(pickled(5)), "a pickle, which could run code when read"),
    "pickle 0 as safetensors": (weights(pickled(0)), "not safetensors"),
    "pickle as torch's": (weights(pickled(4), "pytorch_model.bin"), "pytorch_model.bin is a pick"),
    "pickle as index": (weights(pickled(4), INDEX), f"{INDEX}: cannot be read"),
    "pickle as config": (placed("run/config.json", pickled(4), "eval", "run"), "cannot be read"),
    "pickle as text": (placed("a.txt", pickled(4), *LM, "text:a.txt"), "not UTF-8 at byte 0"),
    "pickle 0 as text": (placed("a.txt", pickled(0), *LM, "text:a.txt"), "sequence_length = 128"),
    "pickle as ids": (placed("a.bin", pickled(4) + b"." * (len(pickled(4)) % 2), *LM,
                      "tokens:a.bin"), "data."),
    "pickle as index of ids": (placed("i/index.json", pickled(4), *LM, "tokens:i"), "cannot be re"),
    "pickle as tokenizer": (placed("t.json", pickled(4), *BPE), "t.json: cannot be read"),
    "pickle 0 as tokenizer": (placed("t.json", pickled(0), *BPE), "t.json: not a tokenizer.json"),
    "pickle as questions": (placed("q.jsonl", pickled(4), *CHOICES), "q.jsonl:1: not UTF-8"),
    "pickle as space": (placed("s.json", pickled(4), *SPACE), "s.json: not JSON"),
    "pickle as image": (pictures(pickled(4)), "0.png: cannot be read as an image"),
    # archives and arrays
    "torch's zip as safetensors": (weights(TORCH), "torch's zip of pickles, which could run code"),
    "torch's zip as torch's": (weights(TORCH, "pytorch_model.bin"), "torch's zip of pickles"),
    "npy objects as safetensors": (weights(numpy_objects()), "not safetensors"),
    "npy objects as ids": (placed("a.bin", numpy_objects(), *LM, "tokens:a.bin"), "a NumPy file"),
    "npy objects as text": (placed("a.txt", numpy_objects(), *LM, "text:a.txt"), "not UTF-8"),
    "npz as ids": (placed("a.bin", zipped(("a.npy", numpy_objects())), *LM, "tokens:a.bin"),
                   "a zip archive"),
    "zip bomb as safetensors": (weights(ZIP_BOMB), "torch's zip of pickles"),
    "zip bomb as ids": (placed("a.bin", ZIP_BOMB, *LM, "tokens:a.bin"), "a zip archive"),
    "zip bomb as image": (pictures(ZIP_BOMB), "cannot be read as an image"),
    # tags and counts
    "yaml as config": (placed("run/config.json", YAML, "eval", "run"), "cannot be read"),
    "yaml as index": (weights(YAML, INDEX), "cannot be read"),
    "yaml as space": (placed("s.json", YAML, *SPACE), "s.json: not JSON"),
    "msgpack as config": (placed("run/config.json", MSGPACK, "eval", "run"), "cannot be read"),
    "msgpack as safetensors": (weights(MSGPACK), "not safetensors"),
    "brackets as config": (placed("run/config.json", DEEP, "eval", "run"), "cannot be read"),
    "brackets as index": (placed("i/index.json", DEEP, *LM, "tokens:i"), "cannot be read"),
    "brackets as tokenizer": (placed("t.json", DEEP, *BPE), "not a tokenizer.json"),
    "brackets as questions": (placed("q.jsonl", DEEP, *CHOICES), "q.jsonl:1: not JSON"),
    "brackets as space": (placed("s.json", DEEP, *SPACE), "s.json: "),
    "64 GB as config": (placed("run/config.json", SPARSE, "eval", "run"), "68,719,476,736 bytes"),
    "64 GB as index": (placed("i/index.json", SPARSE, *LM, "tokens:i"), "68,719,476,736 bytes"),
    "64 GB as safetensors": (weights(SPARSE), "cannot be mapped into memory"),
    "an id of 4 billion": (placed("t.json", tokenizer(2**32 - 1), *BPE), "the id 4294967295: "),
    "a digit too many": (placed("run/config.json", b'{"a": ' + b"9" * 10**6 + b"}", "eval", "run"),
                         "cannot be read"),
    "pixels": (pictures(png(60_000, 60_000, bytes(10))), "0.png: cannot be read as an image"),
    "zeros as pixels": (pictures(png(16_384, 8_192, bytes(8_192 * 2_049))), "more than 67,108,864"),
    # headers of safetensors
    "header overlaps": (weights(entries(a=([2], [0, 8]), b=([1], [4, 8]))), "not safetensors"),
    "header has a gap": (weights(entries(a=([1], [4, 8]))), "not safetensors"),
    "header of terabytes": (weights(entries(a=([2**40], [0, 2**42]))), "not safetensors"),
    "header overflows": (weights(entries(a=([2**32, 2**32], [0, 8]))), "not safetensors"),
    "header is reversed": (weights(entries(a=([2], [8, 0]))), "not safetensors"),
    "header is negative": (weights(entries(a=([-2], [0, 8]))), "not safetensors"),
    "header longer than its file": (weights(tensors("{}", 2**63)), "not safetensors"),
    "header is deep": (weights(tensors(b'{"a":' * 100_000)), "not safetensors"),
    "header is no JSON": (weights(tensors(pickled(0))), "not safetensors"),
    # names of code
    "a file of a plan": (named("c/plan.json", PLAN, "reproduce", "c", "--cell", "x"),
                         "c was made of evil.py, which is not run unasked; name it by --code"),
    "a module of a run": (run_of("evil", "experiment"), "fields missing or unexpected: "),
    "a path of a run": (run_of("../evil", "experiment"), "experiment: name = '../evil': must be"),
    "a function of a run": (run_of("char_gpt", "os.system"), "unknown "),
    "a part of a run": (run_of("char_gpt", "adamw"), "part 'adamw'; "),
    "a class of features": (features(json.dumps({"pythonClassName": "evil.Feature"})), "evil.Feat"),
    "a nested class": (features(json.dumps({"type": "tensorflow_datasets.core.features.features_"
        "dict.FeaturesDict", "content": {"a": {"type": "evil.Feature", "content": {}}}})), "evil."),
    "a class within a text": (features(json.dumps({"pythonClassName": "tensorflow_datasets.core."
        "features.features_dict.FeaturesDict", "jsonFeature": {"json": NESTED}})), "evil.Feature"),
}  # fmt: skip


@pytest.mark.parametrize("name", PAYLOADS)
def test_nothing_runs_and_little_is_taken(tmp_path, name):
    make, told = PAYLOADS[name]
    refused(tmp_path, make(tmp_path), told)
    assert not (tmp_path / RAN).exists()


def reads_features() -> None:
    import tensorflow_datasets as tfds

    with pytest.raises(ValueError, match="Unrecognized"):
        tfds.features.FeatureConnector.from_json({"type": "evil.Feature", "content": {}})


def reads_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    yaml.unsafe_load(YAML)


@pytest.mark.parametrize(
    "read",
    [
        *(lambda protocol=protocol: pickle.loads(pickled(protocol)) for protocol in (0, 2, 4, 5)),
        lambda: np.load(io.BytesIO(numpy_objects()), allow_pickle=True),
        lambda: pickle.loads(zipfile.ZipFile(io.BytesIO(TORCH)).read("archive/data.pkl")),
        reads_yaml,
        reads_features,
    ],
)
def test_the_payloads_would_run(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("evil.py").write_text(MODULE)
    assert not Path(RAN).exists()
    read()
    assert Path(RAN).exists()


def test_the_file_of_a_plan_would_run(tmp_path):
    PAYLOADS["a file of a plan"][0](tmp_path)
    outcome(tmp_path, ["reproduce", "c", "--cell", "x", "--code", "evil.py"])
    assert (tmp_path / RAN).exists()


def test_what_takes_memory_is_seen_to_take_it(tmp_path):
    """The control of the limit: an image that is as large as may be."""
    most = pictures(png(8_192, 8_192, bytes(8_192 * 1_025)))(tmp_path)
    assert outcome(tmp_path, [*most, "--steps", "0"]).peak < 2**26
    assert outcome(tmp_path, [*most, "--batch-size", "1"]).peak > 2**26


def test_no_reader_of_ours_can_run_code():
    """No module that unpickles is imported, none of YAML or msgpack, and nothing is evaluated.

    But for ahead.py, which speaks so with its own child, through files in a folder of the two.
    """
    modules = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "msgpack"}
    calls = {"eval", "exec", "__import__"}
    found = set()
    for path in [*(ROOT / "lmjax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        if path.name == "ahead.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found.add(node.func.id)
            elif isinstance(node, ast.keyword):
                found.add(node.arg or "")
    assert "json" in found
    assert "isinstance" in found
    assert not found & (modules | calls | {"allow_pickle"})
    assert "REDUCE" in {code.name for code, *_ in pickletools.genops(pickled(4))}
