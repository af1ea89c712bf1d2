"""A trained model as a folder that transformers loads by from_pretrained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from lmjax import rundir, runfiles
from lmjax.draft import draft_of
from lmjax.errors import InputError, check_choice
from lmjax.flags import Parser, whole
from lmjax.load import load
from lmjax.models import Model
from lmjax.pretrained.decoders import layout_of
from lmjax.pretrained.folder import CONFIG, WHOLE
from lmjax.pretrained.weights import by_path

WRITTEN = ("float32", "bfloat16")


def run(words: Sequence[str]) -> None:
    """`lmjax export`."""
    parser = Parser(prog="lmjax export", description="A folder for transformers' from_pretrained.")
    parser.add_argument("run", help="the run directory")
    parser.add_argument("--out", required=True, help="the folder to make")
    parser.add_argument("--step", type=whole, default=None, help="of the checkpoint; the newest")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    given = parser.parse_args(words)
    print(export(given.run, given.out, given.step, given.dtype))


def export(run: str, out: str, step: int | None = None, dtype: str = "float32") -> str:
    """Write a run's parameters, those that it is evaluated with; returns what has been done.

    Args:
      run: the run directory.
      out: the folder to make.
      step: of the checkpoint; None = the newest.
      dtype: of the tensors, one of WRITTEN.

    Raises InputError where `out` holds something or no layout says what the model is.
    """
    check_choice("dtype", dtype, WRITTEN)
    check_free(Path(out))
    loaded = load(run, step)
    model, path = loaded.experiment.task.model, rundir.named(run)
    codec = rundir.recorded_codec(path, rundir.read_config(path))
    write(model, loaded.params, Path(out), dtype, codec.description if codec else "")
    architecture = layout_of(model).architecture
    return f"{out}: {architecture} in {dtype}, the weights of {run} at step {loaded.step}"


def check_free(out: Path) -> None:
    """Refuse to write over anything; raises InputError."""
    if out.is_symlink():  # a folder cannot take its place
        raise InputError(f"{out} is a symbolic link; choose another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; choose another --out")


def write(model: Model, params: Any, out: Path, dtype: str, tokenizer: str = "") -> None:
    """config.json, model.safetensors and, where it is not "", tokenizer.json; the folder whole or
    not at all."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    layout = layout_of(model)
    with draft_of(out) as draft:
        tensors = tensors_of(model, params, dtype)
        try:
            save_file(tensors, draft / WHOLE, metadata={"format": "pt"})  # as transformers asks
        except SafetensorError as error:
            raise InputError(f"{out}: cannot be written ({error})") from None
        config = {**layout.config(model), "dtype": dtype}
        runfiles.write_json(epath.Path(draft / CONFIG), config)
        if tokenizer:
            runfiles.write_text(epath.Path(draft / runfiles.TOKENIZER), tokenizer)


def tensors_of(model: Model, params: Any, dtype: str) -> dict[str, np.ndarray]:
    """Name of their tensor -> tensor."""
    layout, leaves = layout_of(model), by_path(params)
    shapes = layout.shapes({path: leaf.shape for path, leaf in leaves.items()})
    found = {}
    for path, leaf in leaves.items():
        x = np.asarray(leaf)
        for piece in layout.pieces(path, x.shape):
            part = np.ascontiguousarray(piece.of(x)).astype(np.dtype(dtype))
            found[piece.name] = part.reshape(shapes[piece.name])
    return found
