"""The checkout as one file: the same code gives the same bytes, so its name can be told before."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tpu import records

ROOT = Path(__file__).parents[1]
PACKED = ("pyproject.toml", "README.md", "LICENSE", "lmjax", "experiments", "tpu")


def pack() -> tuple[Path, bytes]:
    """(where it will lie, what it holds), committed or not; nothing is written yet."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files():
            info = tarfile.TarInfo(path.relative_to(ROOT).as_posix())
            info.size, info.mode = path.stat().st_size, 0o644
            tar.addfile(info, io.BytesIO(path.read_bytes()))
    packed = gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)
    name = f"lmjax-{hashlib.sha256(plain.getvalue()).hexdigest()[:12]}.tar.gz"
    return records.folder() / name, packed


def _files() -> Iterator[Path]:
    for name in PACKED:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            hidden = any(p.startswith((".", "__pycache__")) for p in path.relative_to(ROOT).parts)
            if path.is_file() and not hidden:
                yield path
