"""Files with anything in them: they are read, or refused in one line; nothing else comes of it."""

import copy
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import char_gpt
from lmjax import load, manifest, report, rundir, runs, seal
from lmjax.checkpoint import Checkpoints
from lmjax.choices import read_questions
from lmjax.compare import spaces
from lmjax.compare.variants import Variant
from lmjax.data import Tokens
from lmjax.data.bpe import BPECodec, learn
from lmjax.errors import InputError
from lmjax.models import GPT
from lmjax.pretrained.folder import WHOLE, Folder
from lmjax.pretrained.weights import Pretrained
from lmjax.state import TrainState

# What Orbax still had under way when it failed to read ends as callbacks of a loop that is closed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]

REFERENCES = Path(__file__).parent / "references"
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # the same examples in each run: what is found is found again
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WORDS = ["", "adamw", "gpt", "../x", "a\0b", "float32", "gs://b", "\ud800", "part", "9" * 30]
NUMBERS = [0, -1, 1, 2, 2**31, 2**63, 10**400, 0.5, -0.0, float("nan"), float("inf")]
JUNK = st.recursive(
    st.sampled_from([None, True, False, *WORDS, *NUMBERS]) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in list(inner):
        yield (*prefix, key)
        if isinstance(each, dict | list):
            yield from places(each, (*prefix, key))


@st.composite
def spoiled(draw: st.DrawFn, held: Any) -> bytes:
    """The text of a JSON value of which some pieces are missing, or are something else; or of
    which some bytes are."""
    held = copy.deepcopy(held)
    for _ in range(draw(st.integers(0, 2))):
        found = list(places(held))
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        inner = held
        for key in path:
            inner = inner[key]
        if draw(st.booleans()):
            inner[last] = draw(JUNK)
        else:
            del inner[last]
    text = bytearray(json.dumps(held).encode())
    if draw(st.integers(0, 3)) == 0:
        start = draw(st.integers(0, len(text)))
        text[start : start + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    return bytes(text)


def read(call: Callable[[], Any]) -> Any:
    """What it returns, None where it is refused."""
    try:
        return call()
    except InputError:
        return None


@pytest.fixture(scope="module")
def held(finished_run, tmp_path_factory) -> Path:
    """A run directory whose files may be written over."""
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("fuzz") / "run"))


def fuzzed(path: Path, draw: st.DataObject, held: Any | None = None) -> None:
    """Write the file with something else in it; `held` is what was there first."""
    path.write_bytes(draw.draw(spoiled(json.loads(path.read_text()) if held is None else held)))


@FUZZ
@given(data=st.data())
def test_config(held, finished_run, data):
    """Of a run, as every verb reads it."""
    fuzzed(held / "config.json", data, json.loads((finished_run / "config.json").read_text()))
    path = epath.Path(held)
    experiment = read(lambda: load.recorded(str(held)))
    config = read(lambda: rundir.read_config(path))
    assert experiment is None or config is not None
    if config is not None:
        read(lambda: rundir.recorded_batch(path, config))
        read(lambda: rundir.recorded_codec(path, config))
    listing = runs.list_runs(str(held))
    assert len(listing.runs) + len(listing.others) == 1
    assert runs.to_text(listing, str(held))
    read(lambda: report.make([str(held)]))


@FUZZ
@given(data=st.data())
def test_result(held, finished_run, data):
    shutil.copy(finished_run / "config.json", held)
    fuzzed(held / "result.json", data, json.loads((finished_run / "result.json").read_text()))
    read(lambda: rundir.read_result(epath.Path(held)))
    runs.list_runs(str(held))
    read(lambda: report.make([str(held)]))


@FUZZ
@given(data=st.data())
def test_manifest(held, finished_run, data):
    whole = json.loads((finished_run / "manifest.json").read_text())
    fuzzed(held / "manifest.json", data, whole)
    found = read(lambda: manifest.read(epath.Path(held)))
    if found is not None:
        manifest.changes(found["launches"][-1], whole["launches"][-1])


@FUZZ
@given(data=st.data())
def test_index_of_tokens(tmp_path, data):
    file = {"file": "a.bin", "count": 40, "sha256": "0" * 64}
    split = {"text_bytes": 40, "shards": [file], "documents": file | {"file": "b.bin", "count": 1}}
    whole = {"format": 1, "source": "x", "licence": "x", "tokenizer": "bytes", "vocab_size": 256}
    whole |= {"tokenizer_sha256": "0" * 64, "end_of_text": None, "dtype": "uint16"}
    whole["splits"] = {"train": split, "validation": copy.deepcopy(split)}
    (tmp_path / "a.bin").write_bytes(bytes(80))
    (tmp_path / "b.bin").write_bytes(bytes(8))
    fuzzed(tmp_path / "index.json", data, whole)
    read(lambda: Tokens(source=f"tokens:{tmp_path}", sequence_length=4).load())


VOCABULARY = json.loads(learn([b"a text to learn from, and to learn from again"], 262))


@FUZZ
@given(data=st.data())
def test_tokenizer(data):
    text = data.draw(spoiled(VOCABULARY)).decode(errors="replace")
    codec = read(lambda: BPECodec(text, "t.json"))
    if codec is not None:
        codec.decode(codec.encode("a text").tolist())


@FUZZ
@given(data=st.data())
def test_questions_and_spaces(tmp_path, data):
    question = {"context": "a", "choices": ["b", "c"], "answer": 0}
    fuzzed(tmp_path / "q.jsonl", data, question)
    read(lambda: read_questions(str(tmp_path / "q.jsonl")))
    rates = {"adamw": {"learning_rate": {"low": 1e-4, "high": 1e-1, "per_decade": 3}}}
    fuzzed(tmp_path / "s.json", data, rates)
    variant = Variant("adamw", (), char_gpt.config())
    read(lambda: spaces.read(str(tmp_path / "s.json"), [variant]))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "checkpoints"
    with zipfile.ZipFile(REFERENCES / "checkpoint_schema_1.zip") as stored:
        stored.extractall(folder)
    return folder


METADATA = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/_sharding", "record/metadata")
METADATA += ("state/array_metadatas/process_0",)


@pytest.mark.parametrize("name", METADATA)
@settings(FUZZ, max_examples=8)
@given(data=st.data())
def test_metadata_of_a_checkpoint(checkpoints, tmp_path, name, data):
    """Sealed again, so that Orbax sees it: a state comes back whole, or not at all."""
    folder = Path(shutil.copytree(checkpoints, tmp_path / "copy", dirs_exist_ok=True))
    fuzzed(folder / "3" / name, data)
    (folder / "3" / seal.SEAL).unlink()
    seal.seal(folder / "3")
    shape, where = jax.ShapeDtypeStruct, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = {
        "w": shape((2, 3), np.float32, sharding=where),
        "b": shape((2,), jnp.bfloat16, sharding=where),
    }
    count = {"count": shape((), np.int32, sharding=where)}
    abstract = TrainState(shape((), np.int32, sharding=where), params, {}, count)
    found = read(lambda: Checkpoints(epath.Path(folder)).restore(3, abstract))
    if found is not None:
        assert found[0].params["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


LINES = st.lists(st.text(st.characters(codec="utf-8"), max_size=9), max_size=3)


@settings(FUZZ, max_examples=40)
@given(sums=st.binary(max_size=99) | LINES.map(lambda names: "".join(map(line_of, names)).encode()))
def test_seal(tmp_path, sums):
    (tmp_path / seal.SEAL).write_bytes(sums)
    assert read(lambda: seal.verify(tmp_path)) is None


def line_of(name: str) -> str:
    return f"{'0' * 64}  {name}\n"


WEIGHTS = (REFERENCES / "pretrained" / "gpt2" / WHOLE).read_bytes()
LENGTH = struct.unpack("<Q", WEIGHTS[:8])[0]
HEADER = json.loads(WEIGHTS[8 : 8 + LENGTH])
MODEL = GPT(max_length=24, width=16, depth=2, heads=4, mlp_width=24)


@pytest.fixture(scope="module")
def shapes() -> Any:
    from flax.core import meta

    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return meta.unbox(jax.eval_shape(MODEL.build().init, jax.random.key(0), tokens)["params"])


@settings(FUZZ, max_examples=150)
@given(data=st.data())
def test_header_of_safetensors(tmp_path, shapes, data):
    header = data.draw(spoiled(HEADER))
    size = data.draw(st.just(len(header)) | st.sampled_from([0, 2**32, 2**64 - 1, len(header) + 1]))
    rest = data.draw(st.sampled_from([WEIGHTS[8 + LENGTH :], WEIGHTS[8 + LENGTH : -4], b""]))
    (tmp_path / WHOLE).write_bytes(struct.pack("<Q", size) + header + rest)
    config = json.loads((REFERENCES / "pretrained" / "gpt2" / "config.json").read_text())
    fuzzed(tmp_path / "config.json", data, config)
    read(lambda: Pretrained(Folder(tmp_path), MODEL, shapes))


def test_the_untouched_are_read(held, finished_run, tmp_path, shapes):
    """The control: what is spoiled is otherwise well."""
    for name in ("config.json", "result.json", "manifest.json"):
        shutil.copy(finished_run / name, held)
    assert load.recorded(str(held)).name == "tiny_mlp"
    assert rundir.read_result(epath.Path(held)) is not None
    assert manifest.read(epath.Path(held)) is not None
    assert BPECodec(json.dumps(VOCABULARY), "").vocab_size == 262
    assert Pretrained(Folder(REFERENCES / "pretrained" / "gpt2"), MODEL, shapes)
    with pytest.raises(AssertionError, match="gets out"):
        read(lambda: (_ for _ in ()).throw(AssertionError("gets out")))
