"""Labelled records of a prepared data set of TFDS, read by index."""

import io
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from lmjax.data import prepared
from lmjax.data.images import decoded
from lmjax.data.tables import Labelled, Parts, Table, feed_file
from lmjax.errors import FieldError, InputError

HELD_OUT = ("test", "validation")  # names of the split to evaluate on, the first there is


def read_prepared(source: str, data_dir: str, held_out_split: str, image_size: int) -> Parts:
    """`train` and the held-out split of a data set that has one input and one class an example."""
    builder = prepared.open_set(source, data_dir)
    keys = supervised_keys(source, builder)
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise InputError(f"{source} has no split train; its splits: {', '.join(splits)}")
    held_out = _held_out(source, splits, held_out_split)
    train = RecordTable(source, builder, "train", keys, image_size)
    test = RecordTable(source, builder, held_out, keys, image_size)
    return Parts(train, test, builder.info.features[keys[1]].names)


def _held_out(source: str, splits: list[str], wanted: str) -> str:
    """The split to evaluate on."""
    others = [name for name in splits if name != "train"]
    known = f"the splits of {source}, beside train: {', '.join(others) or 'none'}"
    if wanted and wanted not in others:
        raise FieldError("held_out_split", wanted, known)
    found = [name for name in (wanted, *HELD_OUT) if name in others]
    if not found:
        raise FieldError("held_out_split", "", f"must be one of {known}")
    return found[0]


def supervised_keys(source: str, builder: Any) -> tuple[str, str]:
    """Names of the input and of its class, as the builder of the set declares them."""
    import tensorflow_datasets as tfds

    keys, features = builder.info.supervised_keys, dict(builder.info.features)
    known = ", ".join(features)
    if not keys or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        raise InputError(f"{source} does not declare an input and a label; its features: {known}")
    if not isinstance(features[keys[1]], tfds.features.ClassLabel):
        raise InputError(f"{source}: the label {keys[1]!r} is no class; its features: {known}")
    feature: Any = features[keys[0]]
    dtype = feature.np_dtype
    array = isinstance(feature, (tfds.features.Image, tfds.features.Tensor))
    if not array or dtype not in (np.uint8, np.float32, np.float64):
        raise InputError(
            f"{source}: the input {keys[0]!r} is {type(feature).__name__} of {np.dtype(dtype)}, "
            "neither an image of uint8 nor an array of floats"
        )
    return keys


class RecordTable(Table):
    """One split. Pixels stay uint8; floats become float32."""

    def __init__(
        self, source: str, builder: Any, split: str, keys: tuple[str, str], image_size: int
    ):
        import tensorflow_datasets as tfds

        self.name = f"{source}, split {split}"
        self.key, self.label = keys
        self.classes = builder.info.features[self.label].num_classes
        feature: Any = builder.info.features[self.key]
        self.shape = tuple(feature.shape)
        self.dtype = np.dtype(np.uint8 if feature.np_dtype == np.uint8 else np.float32)
        self.is_image = isinstance(feature, tfds.features.Image)
        self.resize = self.is_image and image_size > 0
        if self.is_image and self.shape[-1] not in (1, 3):
            raise InputError(f"{source}: images of {self.shape[-1]} channels, neither 1 nor 3")
        if self.resize:
            self.shape = (image_size, image_size, self.shape[-1])
        if None in self.shape:
            raise FieldError("image_size", image_size, f"the images of {source} vary in size")
        self.records = prepared.Records(builder, split, keys)

    def __len__(self) -> int:
        return len(self.records)

    def gather(self, chosen: Int64[np.ndarray, "B"]) -> Labelled:
        found = self.records.read(chosen.tolist())
        inputs = np.empty((len(found), *self.shape), self.dtype)
        targets = np.array([record[self.label] for record in found], np.int32)
        for row, record in enumerate(found):
            inputs[row] = self._input(record[self.key], int(chosen[row]))
        outside = np.flatnonzero((targets < 0) | (targets >= self.classes))
        if len(outside):
            row = outside[0]
            raise InputError(
                f"{self.name}: the label {targets[row]} of example {chosen[row]} is outside "
                f"[0, {self.classes}); a split without labels cannot be used"
            )
        return inputs, targets

    def _input(self, x: Any, number: int) -> Shaped[np.ndarray, "*example"]:
        try:
            pixels = self._pixels(x) if self.is_image else np.asarray(x)
        except InputError as error:
            raise InputError(f"{self.name}: example {number}: {error}") from None
        if pixels.shape != self.shape:
            found = f"example {number} has the shape {pixels.shape}, not {self.shape}"
            raise InputError(f"{self.name}: {found}")
        return pixels

    def _pixels(self, x: bytes) -> Shaped[np.ndarray, "h w c"]:
        return decoded(io.BytesIO(x), self.shape, self.resize)

    def feed(self, content: Any) -> None:
        for path in self.records.files:
            content.update(path.name.encode())
            feed_file(content, path)
