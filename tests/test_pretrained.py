"""Folders of weights, as transformers reads and writes them (references/make_pretrained.py)."""

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from safetensors.numpy import load_file, save_file

from lmjax import cli, train
from lmjax.errors import InputError
from lmjax.models import GPT, Llama, Model
from lmjax.parts import replace
from lmjax.pretrained import export
from lmjax.pretrained.folder import INDEX, WHOLE, Folder
from lmjax.pretrained.weights import Pretrained

REFERENCES = Path(__file__).parent / "references" / "pretrained"
TOLERANCE, VISIBLE = 1e-4, 1e-2  # of logits of order 1

_SIZES = {"max_length": 24, "width": 16, "depth": 2, "heads": 4, "mlp_width": 24}
_ROTARY = {**_SIZES, "head_dim": 6, "norm_eps": 1e-2, "rope_theta": 500.0}
MODELS = {
    "gpt2": GPT(**_SIZES),
    "llama": Llama(**_ROTARY, kv_heads=2),
    "qwen3": Llama(**_ROTARY, kv_heads=0, tied=True, qk_norm=True),
}
WRITTEN = {"gpt2": "float32", "llama": "float32", "qwen3": "bfloat16"}
TRAIN = [
    *("train", "char_gpt", "--steps", "1", "--batch-size", "4", "--data.sequence-length", "16"),
    *("--data.source", "text:text.txt"),
    *("--schedule.warmup-steps", "0", "--task.showcase-length", "0"),
    *("--task.model.depth", "2", "--task.model.width", "16", "--task.model.heads", "4"),
    *("--task.model.mlp-width", "24", "--task.model.max-length", "24", "--task.model.unroll", "1"),
]
STILL = ["--optimizer.learning-rate", "1e-30", "--optimizer.weight-decay", "0"]  # p - 1e-30 is p


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a text to train on, " * 40)
    with jax.default_matmul_precision("highest"):
        yield


def abstract(model: Model) -> Any:
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    boxed = jax.eval_shape(model.build().init, jax.random.key(0), tokens)["params"]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), meta.unbox(boxed)
    )


def params_of(folder: Path, model: Model) -> Any:
    shapes = abstract(model)
    return Pretrained(Folder(folder), model, shapes).params(shapes)


def distance(name: str, params: Any) -> float:
    """Largest difference of the logits from those that transformers gave."""
    with np.load(REFERENCES / "logits.npz") as file:
        tokens, theirs = jnp.asarray(file["tokens"]), file[name]
    ours = MODELS[name].build().apply({"params": params}, tokens)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return {k: x for file in folder.glob("*.safetensors") for k, x in load_file(file).items()}


def copied(name: str = "gpt2") -> Path:
    """A folder like the reference that may be spoilt."""
    shutil.rmtree("folder", ignore_errors=True)
    return Path(shutil.copytree(REFERENCES / name, "folder"))


def changed(name: str, **changes: Any) -> Path:
    """A copy of a one-file folder: tensor -> function of it, or a new one, or None to drop it."""
    folder = copied(name)
    held = tensors(folder)
    for key, change in changes.items():
        held[key] = change(held[key]) if callable(change) else change
    kept = {k: np.ascontiguousarray(x) for k, x in held.items() if x is not None}
    save_file(kept, folder / WHOLE, {"format": "pt"})
    return folder


def configured(name: str, **fields: Any) -> Path:
    """A copy of a folder with other fields in its config.json."""
    folder = copied(name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


@pytest.mark.smoke
@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_transformers_gives_its_logits(name):
    assert distance(name, params_of(REFERENCES / name, MODELS[name])) < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_what_was_read_is_written_as_it_was(name):
    model = MODELS[name]
    export.write(model, params_of(REFERENCES / name, model), Path("out"), WRITTEN[name])
    ours, theirs = tensors(Path("out")), tensors(REFERENCES / name)
    assert {k: (x.dtype, x.shape) for k, x in ours.items()} == {
        k: (x.dtype, x.shape) for k, x in theirs.items()
    }
    assert all(ours[k].tobytes() == theirs[k].tobytes() for k in theirs)
    old, new = (
        json.loads((x / "config.json").read_text()) for x in (REFERENCES / name, Path("out"))
    )
    left_out = {"rope_theta"}  # of older transformers
    assert {k: new[k] for k in new if "pdrop" not in k and k not in left_out} == {
        k: old[k] for k in new if "pdrop" not in k and k not in left_out
    }
    assert not Path(".out.draft").exists()


def test_a_folder_below_a_file_cannot_be_written():
    params = params_of(REFERENCES / "gpt2", MODELS["gpt2"])
    with pytest.raises(InputError, match="cannot be written"):
        export.write(MODELS["gpt2"], params, Path("text.txt/out"), "float32")


@pytest.mark.parametrize(
    ("name", "key", "spoil"),
    [
        ("gpt2", "transformer.h.1.attn.c_proj.weight", np.transpose),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", lambda x: np.roll(x, 16, axis=1)),
        (
            "gpt2",
            "transformer.h.0.attn.c_attn.weight",  # q, k and v of each head beside each other
            lambda x: x.reshape(16, 3, 4, 4).swapaxes(1, 2).reshape(16, 48),
        ),
        ("qwen3", "model.layers.1.self_attn.k_norm.weight", np.ones_like),
        (
            "qwen3",
            "model.layers.0.self_attn.q_proj.weight",  # rotary pairs of neighbours
            lambda x: x.reshape(4, 3, 2, 16).swapaxes(1, 2).reshape(24, 16),
        ),
    ],
)
def test_a_tensor_in_another_order_shows(name, key, spoil):
    assert distance(name, params_of(changed(name, **{key: spoil}), MODELS[name])) > VISIBLE


def test_query_and_key_swapped_show():
    held = tensors(REFERENCES / "qwen3")
    q, k = (f"model.layers.0.self_attn.{x}_proj.weight" for x in "qk")
    folder = changed("qwen3", **{q: held[k], k: held[q]})
    assert distance("qwen3", params_of(folder, MODELS["qwen3"])) > VISIBLE


def test_a_lost_tie_shows():
    """A head of its own, where the model's is its embedding; and a tied folder for such a model."""
    head = np.ones((256, 16), np.float32)
    with pytest.raises(InputError, match=r"unexpected lm_head.weight: the model's head is tied"):
        params_of(changed("gpt2", **{"lm_head.weight": head}), MODELS["gpt2"])
    with pytest.raises(InputError, match="tie_word_embeddings = True: must be False"):
        params_of(REFERENCES / "gpt2", replace(MODELS["gpt2"], "tied", False))
    folder = configured("gpt2", tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"missing lm_head\.weight"):
        params_of(folder, replace(MODELS["gpt2"], "tied", False))


def test_older_folders_are_read():
    """Of the bare decoder, with its masks, and with the tied head written out."""
    held = tensors(REFERENCES / "gpt2")
    folder = copied("gpt2")
    bare = {key.removeprefix("transformer."): x for key, x in held.items()}
    masks = {"h.0.attn.bias": np.ones((1, 1, 24, 24), bool)}
    save_file({**bare, **masks, "lm_head.weight": held["transformer.wte.weight"]}, folder / WHOLE)
    assert distance("gpt2", params_of(folder, MODELS["gpt2"])) < TOLERANCE
    old = configured("llama", rope_parameters=None, rope_theta=500.0, rope_scaling=None)
    assert distance("llama", params_of(old, MODELS["llama"])) < TOLERANCE


def test_half_precision_is_converted_and_said():
    half = {key: x.astype(np.float16) for key, x in tensors(REFERENCES / "gpt2").items()}
    folder = changed("gpt2", **half)
    shapes = abstract(MODELS["gpt2"])
    pretrained = Pretrained(Folder(folder), MODELS["gpt2"], shapes)
    assert str(pretrained) == "folder (gpt2, 28 tensors, float16 converted to float32)"
    params = pretrained.params(shapes)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert 1e-5 < distance("gpt2", params) < VISIBLE


@pytest.mark.smoke
def test_a_run_starts_from_a_folder_and_is_exported(capsys):
    start = ["--init-from", str(REFERENCES / "gpt2"), *STILL, "--workdir", "run"]
    assert cli.main([*TRAIN, *start]) == 0
    told = f"weights from {REFERENCES / 'gpt2'} (gpt2, 28 tensors)\n"
    assert told in capsys.readouterr().out
    assert cli.main(["export", "run", "--out", "out", "--step", "1"]) == 0
    assert "GPT2LMHeadModel in float32, the weights of run at step 1" in capsys.readouterr().out
    ours, theirs = tensors(Path("out")), tensors(REFERENCES / "gpt2")
    assert {k: x.tobytes() for k, x in ours.items()} == {k: x.tobytes() for k, x in theirs.items()}
    moved = [*TRAIN, "--init-from", "out", "--optimizer.learning-rate", "1e-3"]
    assert cli.main([*moved, "--workdir", "other"]) == 0
    assert cli.main(["export", "other", "--out", "far"]) == 0
    far = tensors(Path("far"))
    assert far.keys() == ours.keys()
    assert all(far[k].tobytes() != ours[k].tobytes() for k in ours)


def refused(capsys, monkeypatch, *words: str) -> str:
    """The one line of a command that ends with 2 before anything is compiled or written."""

    def compiled(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(train, "compile_program", compiled)
    assert cli.main([*words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("lmjax: ")
    assert not Path("run").exists()
    return told


WEIGHT = "transformer.h.1.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda: configured("gpt2", n_head=8), "n_head = 8: must be 4"),
        (lambda: configured("gpt2", n_inner=None), "n_inner = 64: must be 24"),
        (lambda: configured("gpt2", n_layer=3, n_embd=8), "n_embd = 8: must be 16; n_layer = 3"),
        (lambda: configured("gpt2", n_layer=None), "no field n_layer"),
        (lambda: configured("gpt2", n_layer=[2]), "n_layer = [2]: must be 2"),
        (lambda: configured("gpt2", scale_attn_weights=False), "scale_attn_weights = False"),
        (lambda: configured("gpt2", model_type="opt"), "model_type = 'opt': must be 'gpt2'"),
        (lambda: changed("gpt2", **{WEIGHT: lambda x: x * np.nan}), f"NaN or infinity in {WEIGHT}"),
        (lambda: changed("gpt2", **{WEIGHT: lambda x: x / 0.0}), f"NaN or infinity in {WEIGHT}"),
        (lambda: changed("gpt2", **{WEIGHT: np.transpose}), "is [24, 16], not [16, 24]"),
        (lambda: changed("gpt2", **{WEIGHT: lambda x: x.astype(np.int8)}), "is I8, not F32"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_folder_that_does_not_fit_is_refused(capsys, monkeypatch, spoil, told):
    words = [*TRAIN, "--init-from", str(spoil()), "--workdir", "run"]
    assert told in refused(capsys, monkeypatch, *words)


def test_all_that_does_not_fit_is_told_at_once(capsys, monkeypatch):
    changes = {WEIGHT: np.transpose, "transformer.ln_f.bias": None, "else": np.ones(3)}
    folder = changed("gpt2", **changes)
    told = refused(capsys, monkeypatch, *TRAIN, "--init-from", str(folder), "--workdir", "run")
    for part in (f"{WEIGHT} is [24, 16]", "missing transformer.ln_f.bias", "unexpected else"):
        assert part in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": None},
            "must be {'rope_type': 'default'",
        ),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}, "100.0}: must be"),
        ({"rope_parameters": None, "rope_theta": 100.0}, "100.0}: must be"),
        ({"rope_scaling": "linear"}, "rope_parameters = 'linear': must be"),
        ({"max_position_embeddings": 23}, "max_position_embeddings = 23: must be at least 24"),
        ({"num_key_value_heads": None}, "num_key_value_heads = 4: must be 2"),
        ({"attention_bias": True}, "attention_bias = True: must be False"),
    ],
)
def test_a_llama_of_another_kind_is_refused(settings, told):
    folder = configured("llama", **settings)
    with pytest.raises(InputError) as error:
        params_of(folder, MODELS["llama"])
    assert told in str(error.value)
    assert distance("llama", params_of(configured("llama", x=1), MODELS["llama"])) < TOLERANCE
    roomy = configured("llama", max_position_embeddings=4096)
    assert distance("llama", params_of(roomy, MODELS["llama"])) < TOLERANCE


class Bomb:
    """Leaves a file behind if it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def header(**entries: Any) -> bytes:
    """A safetensors file of eight bytes of data."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


def entry(start: int, end: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (WHOLE, pickle.dumps(Bomb()), "a pickle, which could run code"),
        (WHOLE, b"PK\x03\x04" + bytes(60), "torch's zip of pickles, which could run code"),
        ("pytorch_model.bin", pickle.dumps(Bomb()), "pytorch_model.bin is a pickle"),
        (WHOLE, (REFERENCES / "gpt2" / WHOLE).read_bytes()[:-4], "not safetensors"),
        (WHOLE, (REFERENCES / "gpt2" / WHOLE).read_bytes()[:4], "not safetensors"),
        (WHOLE, header(a=entry(0, 8, [2]), b=entry(4, 8, [1])), "not safetensors"),
        (WHOLE, header(a=entry(0, 2**62, [2**60])), "not safetensors"),
        (WHOLE, struct.pack("<Q", 2**60) + b"{}", "not safetensors"),
        ("notes.txt", b"", f"is no run directory, and holds no {WHOLE}"),
        (INDEX, b"[]", "not a JSON object"),
        (INDEX, b'{"weight_map": {}}', "no field weight_map"),
        (INDEX, b'{"weight_map": {"a": "../a.safetensors"}}', "outside of its folder: ../a"),
        (INDEX, b'{"weight_map": {"a": "a.safetensors"}}', "lacks files that its index names: a"),
        ("config.json", b"{", "config.json: cannot be read"),
        ("config.json", b"{}", "no field model_type; no field vocab_size"),
    ],
)
def test_what_is_no_folder_of_safetensors_is_refused(capsys, monkeypatch, name, content, told):
    folder = copied("gpt2")
    if name != "config.json":
        (folder / WHOLE).unlink()
    (folder / name).write_bytes(content)
    words = [*TRAIN, "--init-from", str(folder), "--workdir", "run"]
    assert told in refused(capsys, monkeypatch, *words)
    assert not Path("exploded").exists()


def test_the_bomb_would_explode():
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists()


def test_shards_that_are_not_as_the_index_says_are_refused():
    folder = copied("llama")
    index = json.loads((folder / INDEX).read_text())
    (first, file), *_ = index["weight_map"].items()
    shards = sorted(set(index["weight_map"].values()))
    index["weight_map"][first] = shards[file == shards[0]]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"disagree on {first}"):
        Folder(folder)
    save_file({first: np.ones(2)}, folder / "more.safetensors")
    index["weight_map"]["more"] = "more.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"in two files: {first}"):
        Folder(folder)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "arguments are required: run, --out"),
        (["run"], "arguments are required: --out"),
        (["nowhere", "--out", "out"], "nowhere is not a run directory"),
        (["nowhere", "--out", "full"], "full is not an empty folder; choose another --out"),
        (["nowhere", "--out", "link"], "link is a symbolic link; choose another --out"),
        (["nowhere", "--out", "x" * 300], f"{'x' * 300}: the name is too long"),
        (["nowhere", "--out", "full/file"], "full/file is not an empty folder"),
        (["nowhere", "--out", "out", "--dtype", "bfloat61"], "nearest: bfloat16"),
    ],
)
def test_bad_exports_are_refused(capsys, monkeypatch, words, told):
    Path("full").mkdir()
    Path("full/file").touch()
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    there = sorted(Path().iterdir())
    assert told in refused(capsys, monkeypatch, "export", *words)
    assert sorted(Path().iterdir()) == there
