"""The weights of a folder, checked against a model and laid out as its parameters."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from lmjax.errors import InputError
from lmjax.models import Model
from lmjax.pretrained.decoders import layout_of
from lmjax.pretrained.folder import CONFIG, DTYPES, Folder
from lmjax.pretrained.layout import Layout, Setting
from lmjax.state import TrainState


class Pretrained:
    """A folder that fits a model: to be made before anything is compiled or written."""

    def __init__(self, folder: Folder, model: Model, abstract: Any):
        """`abstract`: shapes of the parameters. Raises InputError for what does not fit, all of it
        in one line: fields of config.json, or tensors that are missing, unexpected, of another
        shape or dtype, or not finite."""
        self.layout, self.folder = layout_of(model), folder
        _check_config(self.layout, folder, model)
        shapes = {path: leaf.shape for path, leaf in by_path(abstract).items()}
        self.wanted = self.layout.shapes(shapes)
        self.names = _their_names(self.layout, folder, self.wanted)
        told = _differences(self.layout, folder, self.names, self.wanted)
        if told:
            raise InputError(f"{folder.path} does not fit this model: {'; '.join(sorted(told))}")
        broken = [name for name in self.wanted if not np.isfinite(self._read(name)).all()]
        if broken:
            raise InputError(f"{folder.path}: NaN or infinity in {', '.join(sorted(broken))}")

    def __str__(self) -> str:
        used = {self.folder.entries[self.names[name]].dtype for name in self.wanted}
        odd = " and ".join(sorted(DTYPES[dtype] for dtype in used - {"F32"}))
        converted = f", {odd} converted to float32" if odd else ""
        told = f"{self.layout.model_type}, {len(self.wanted)} tensors{converted}"
        return f"{self.folder.path} ({told})"

    def restore(self, abstract: TrainState) -> tuple[Any, Any]:
        """(params, model_state), laid out as `abstract` says; no such model has a state."""
        return self.params(abstract.params), {}

    def params(self, abstract: Any) -> Any:
        """All parameters, laid out as `abstract` says, one at a time: beside what is done, the
        host holds no more than one (of all layers) and a tensor."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._leaf(name_of(path), leaf), abstract
        )

    def _leaf(self, path: str, leaf: Any) -> jax.Array:
        x = np.empty(leaf.shape, np.float32)
        for piece in self.layout.pieces(path, leaf.shape):
            part = piece.of(x)
            part[...] = self._read(piece.name).reshape(part.shape)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: x[index])

    def _read(self, name: str) -> np.ndarray:
        return self.folder.read(self.names[name]).astype(np.float32, copy=False)


def by_path(tree: Any) -> dict[str, Any]:
    """Path -> leaf, of a tree of parameters."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name_of(path: Any) -> str:
    """A path in a tree, as the tables write it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_config(layout: Layout, folder: Folder, model: Any) -> None:
    config = _current(folder.config)
    settings = [Setting("model_type", lambda m: layout.model_type), *layout.settings]
    told = [line for setting in settings if (line := _contradiction(setting, config, model))]
    if told:
        raise InputError(f"{folder.path / CONFIG} contradicts the model: {'; '.join(told)}")


def _current(config: dict[str, Any]) -> dict[str, Any]:
    """The config with all that it says of rotary positions in one field, as in transformers 5."""
    old = {name: config[name] for name in ("rope_theta", "partial_rotary_factor") if name in config}
    rope = {"rope_type": "default", "rope_theta": 10000.0}  # what it takes where nothing is said
    for given in (old, config.get("rope_scaling"), config.get("rope_parameters")):
        if not isinstance(given, dict | None):
            return {**config, "rope_parameters": given}
        rope |= {name: value for name, value in (given or {}).items() if value is not None}
    return {**config, "rope_parameters": rope}


def _contradiction(setting: Setting, config: dict[str, Any], model: Any) -> str:
    """What is wrong with one field; "" = nothing."""
    given, wanted = config.get(setting.name), setting.value(model)
    if given is None:
        if setting.absent is None:
            return f"no field {setting.name}"
        given = setting.absent(model)
    larger = setting.at_least and isinstance(given, int) and given >= wanted
    if given == wanted or larger:
        return ""
    allowed = "must be at least" if setting.at_least else "must be"
    return f"{setting.name} = {given!r}: {allowed} {wanted!r}"


def _their_names(layout: Layout, folder: Folder, wanted: Iterable[str]) -> dict[str, str]:
    """Name in the table -> name in the folder, which may lack the prefix of the bare decoder."""
    bare = not any(name.startswith(layout.prefix) for name in folder.entries)
    return {name: name.removeprefix(layout.prefix) if bare else name for name in wanted}


def _differences(
    layout: Layout, folder: Folder, names: dict[str, str], wanted: dict[str, tuple[int, ...]]
) -> list[str]:
    """One phrase for each tensor that is missing, unexpected, or not as the model wants it."""
    told = []
    for name, shape in wanted.items():
        if names[name] not in folder.entries:
            told.append(f"missing {name}")
            continue
        entry = folder.entries[names[name]]
        if entry.shape != shape:
            told.append(f"{name} is {list(entry.shape)}, not {list(shape)}")
        if entry.dtype not in DTYPES:
            told.append(f"{name} is {entry.dtype}, not {', '.join(DTYPES)}")
    for name in folder.entries.keys() - set(names.values()):
        if name == layout.head and not _same(folder, name, names[layout.embedding]):
            told.append(f"unexpected {name}: the model's head is tied to its embedding")
        elif name != layout.head and not name.endswith(layout.buffers):
            told.append(f"unexpected {name}")
    return told


def _same(folder: Folder, one: str, other: str) -> bool:
    """Whether two tensors are equal, as a tied head is that a file holds all the same."""
    return other in folder.entries and np.array_equal(folder.read(one), folder.read(other))
