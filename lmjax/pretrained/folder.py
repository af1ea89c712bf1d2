"""A folder of safetensors files and a config.json, read tensor by tensor; nothing is unpickled."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from lmjax import runfiles
from lmjax.errors import InputError

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # those that we read


class Entry(NamedTuple):
    """Where a tensor is, as the header of its file says."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # as in DTYPES, or one that we do not read


class Folder:
    """The headers of all files, which the safetensors library has checked: offsets that overlap,
    leave a gap or point outside, and files that are cut off, are refused."""

    def __init__(self, path: Path):
        """Raises InputError where a file is missing or is not what its name says."""
        self.path = path
        files = _files(path)
        self.config = runfiles.read_json(epath.Path(path / CONFIG))
        self.entries: dict[str, Entry] = {}
        for file in files:
            header = _header(file)
            if twice := sorted(header.keys() & self.entries.keys()):
                raise InputError(f"{path}: in two files: {', '.join(twice)}")
            self.entries |= header
        if len(files) > 1 or files[0].name != WHOLE:
            _check_index(path, self.entries)

    def read(self, name: str) -> np.ndarray:
        """One tensor, in memory of its own."""
        from safetensors import safe_open

        with safe_open(self.entries[name].file, "numpy") as file:
            return file.get_tensor(name)


def is_folder(path: Path) -> bool:
    """Whether a directory holds weights, if anything, and not a run."""
    if not path.is_dir() or (path / runfiles.CHECKPOINTS).is_dir():
        return False
    config = epath.Path(path / CONFIG)
    return not config.exists() or "experiment" not in runfiles.read_json(config)


def _files(path: Path) -> list[Path]:
    """The file that holds all weights, or those that the index names."""
    if (path / WHOLE).is_file():
        return [path / WHOLE]
    if not (path / INDEX).is_file():
        pickles = [f"{x.name} is {kind}" for x in sorted(path.iterdir()) if (kind := _pickle(x))]
        refused = f" ({'; '.join(pickles)}, which could run code when read)" if pickles else ""
        raise InputError(f"{path} is no run directory, and holds no {WHOLE}{refused}")
    names = sorted(set(_weight_map(path).values()))
    if odd := [name for name in names if Path(name).name != name]:
        raise InputError(f"{path / INDEX} names files outside of its folder: {', '.join(odd)}")
    if missing := [name for name in names if not (path / name).is_file()]:
        raise InputError(f"{path} lacks files that its index names: {', '.join(missing)}")
    return [path / name for name in names]


def _weight_map(path: Path) -> dict[str, str]:
    index = runfiles.read_json(epath.Path(path / INDEX))
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names or {type(x) for x in names.values()} != {str}:
        raise InputError(f"{path / INDEX}: no field weight_map with a file for each tensor")
    return names


def _check_index(path: Path, entries: dict[str, Entry]) -> None:
    said = _weight_map(path)
    held = {name: entry.file.name for name, entry in entries.items()}
    if odd := sorted(dict(said.items() ^ held.items())):
        raise InputError(f"{path / INDEX} and its files disagree on {', '.join(odd)}")


def _header(file: Path) -> dict[str, Entry]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: Entry(file, tuple(x.get_shape()), x.get_dtype()) for name, x in slices.items()
            }
    except MemoryError as error:  # its addresses, since no more than its header is read
        raise InputError(f"{file}: cannot be mapped into memory ({error})") from None
    except (OSError, SafetensorError) as error:
        kind = _pickle(file)
        told = f"{kind}, which could run code when read" if kind else f"not safetensors ({error})"
        raise InputError(f"{file}: {told}") from None


def _pickle(file: Path) -> str:
    """What kind of pickle a file seems to be; "" = none."""
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start == b"PK\x03\x04":
        return "torch's zip of pickles"
    protocol = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return "a pickle" if protocol and start[2:] != b"\0\0" else ""  # else the length of a header
