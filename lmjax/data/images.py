"""images:PATH, a folder for each class with PNG and JPEG files in it.

PATH/train/CLASS and PATH/test/CLASS (or validation, or val) where there are both; otherwise
PATH/CLASS, of which a part is held out. Classes and files are in the order of their names,
whatever the file system lists first. All are grey if all files are; otherwise all are red, green,
blue.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int32, Int64, UInt8

from lmjax.data.tables import Labelled, Parts, Table, feed_file, stratified
from lmjax.errors import FieldError, InputError

PREFIX = "images:"
SUFFIXES = (".png", ".jpg", ".jpeg")
HELD_OUT = ("test", "validation", "val")  # folders to evaluate on, the first there is
MOST_PIXELS = 2**26  # of an image, which then takes 200 MB
GREY = {"1", "L"}  # Pillow's modes
COLOUR = {"P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}


class File(NamedTuple):
    """One image, by its header."""

    path: epath.Path
    shape: tuple[int, int]  # height, width in pixels
    grey: bool


def read_images(source: str, held_out: int, image_size: int) -> Parts:
    """The training and the held-out images of a folder, which stay on the disk."""
    root = epath.Path(source.removeprefix(PREFIX)).expanduser()
    if not root.is_dir() or source == PREFIX:
        raise FieldError("source", source, "no such folder")
    held = [name for name in HELD_OUT if _folders(root / name)]
    if held and _folders(root / "train"):
        train, test = _classes(root / "train"), _classes(root / held[0])
        strange = sorted(test.keys() - train.keys())
        if strange:
            raise InputError(f"{root / held[0] / strange[0]}: no class of {root / 'train'}")
        names = list(train)
        parts = [_files(names, train), _files(names, test)]
    else:
        found = _classes(root)
        names = list(found)
        for name, paths in found.items():
            if len(paths) < 2:
                raise InputError(f"{root / name}: one image, so none can be held out")
        files, targets = _files(names, found)
        chosen = stratified(targets, held_out)
        parts = [([files[i] for i in part], targets[part]) for part in chosen]
    everything = sorted(file for files, _ in parts for file in files)
    shape = _shape(everything, image_size)
    tables = [ImageTable(root, files, targets, shape, image_size > 0) for files, targets in parts]
    return Parts(tables[0], tables[1], names)


def _folders(path: epath.Path) -> list[str]:
    if not path.is_dir():
        return []
    children = (child for child in path.iterdir() if not child.name.startswith("."))
    return sorted(child.name for child in children if child.is_dir())


def _classes(root: epath.Path) -> dict[str, list[epath.Path]]:
    """Class -> its files, both in the order of their names."""
    names = _folders(root)
    if len(names) < 2:
        found = f"the one class {names[0]}" if names else "no folders"
        raise InputError(
            f"{root}: holds {found}, but needs a folder for each of two classes or more"
        )
    classes = {}
    for name in names:
        paths = sorted(p for p in (root / name).iterdir() if not p.name.startswith("."))
        for path in paths:
            if path.suffix.lower() not in SUFFIXES:
                raise InputError(f"{path}: neither PNG nor JPEG")
        if not paths:
            raise InputError(f"{root / name}: the folder of this class is empty")
        classes[name] = paths
    return classes


def _files(
    names: Sequence[str], classes: dict[str, list[epath.Path]]
) -> tuple[list[File], Int32[np.ndarray, "n"]]:
    number = {name: index for index, name in enumerate(names)}
    files = [_header(path) for paths in classes.values() for path in paths]
    numbers = [number[name] for name, paths in classes.items() for _ in paths]
    return files, np.array(numbers, np.int32)


def _header(path: epath.Path) -> File:
    try:
        with _opened(path) as image:
            mode, (width, height) = image.mode, image.size
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise _unreadable(path, error) from None
    if mode not in GREY | COLOUR:
        raise InputError(f"{path}: pixels of mode {mode}; 8 bits a channel are needed")
    return File(path, (height, width), mode in GREY)


@contextlib.contextmanager
def _opened(image: epath.Path | io.BytesIO) -> Iterator[Any]:
    """An image by its header; raises ValueError where its pixels would fill the memory."""
    from PIL import Image

    with warnings.catch_warnings():  # Pillow's own limit is higher, and first warns
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(image)
    with opened:
        if opened.width * opened.height > MOST_PIXELS:
            told = f"{opened.height} x {opened.width} are more than {MOST_PIXELS:,} pixels"
            raise ValueError(told)
        yield opened


def _unreadable(image: epath.Path | io.BytesIO, error: Exception) -> InputError:
    name = "an encoded image" if isinstance(image, io.BytesIO) else str(image)
    told = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{name}: cannot be read as an image ({told})")


def _shape(files: list[File], image_size: int) -> tuple[int, int, int]:
    """Height, width and channels that all images are read with."""
    channels = 1 if all(file.grey for file in files) else 3
    if image_size:
        return image_size, image_size, channels
    first = files[0]
    for file in files:
        if file.shape != first.shape:
            (h, w), (height, width) = first.shape, file.shape
            allowed = f"{first.path} is {h} x {w}, but {file.path} {height} x {width}: name a size"
            raise FieldError("image_size", image_size, allowed)
    return *first.shape, channels


class ImageTable(Table):
    """Image files, decoded when they are asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        root: epath.Path,
        files: list[File],
        targets: Int32[np.ndarray, "n"],
        shape: tuple[int, int, int],
        resize: bool,
    ):
        self.root, self.files, self.targets = root, files, targets
        self.shape, self.resize = shape, resize

    def __len__(self) -> int:
        return len(self.files)

    def gather(self, chosen: Int64[np.ndarray, "B"]) -> Labelled:
        inputs = np.empty((len(chosen), *self.shape), np.uint8)
        for row, number in enumerate(chosen):
            inputs[row] = decoded(self.files[number].path, self.shape, self.resize)
        return inputs, self.targets[chosen]

    def feed(self, content: Any) -> None:
        content.update(repr(self.shape).encode() + self.targets.tobytes())
        for file in self.files:
            content.update(file.path.relative_to(self.root).as_posix().encode())
            feed_file(content, file.path)


def decoded(
    image: epath.Path | io.BytesIO, shape: tuple[int, ...], resize: bool
) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of an encoded image, grey for one channel and otherwise red, green, blue.

    Where it may be resized, that is done to its middle square, by averaging where it shrinks.
    """
    from PIL import Image

    height, width, channels = shape
    try:
        with _opened(image) as file:
            if file.size != (width, height) and not resize:
                raise ValueError(f"{file.height} x {file.width}, not {height} x {width}")
            pixels = file.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise _unreadable(image, error) from None
    if pixels.size != (width, height):
        edge = min(pixels.size)
        left, top = (pixels.width - edge) // 2, (pixels.height - edge) // 2
        box = (left, top, left + edge, top + edge)
        pixels = pixels.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(pixels).reshape(shape)
