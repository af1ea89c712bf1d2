"""`lmjax data prepare`: data sets of TFDS, written so that they are read without TensorFlow.

What TFDS has in its own code mostly needs TensorFlow to be prepared, though not to be read. So
that runs elsewhere: uv makes an environment for the one command and forgets it.
"""

import importlib.metadata
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from lmjax.data import download, embedded, prepared
from lmjax.errors import InputError, RunError

PINNED = ("tensorflow-datasets", "array-record")  # as they are here, for the same format
BESIDE = ("tensorflow-cpu", "importlib-resources")  # TFDS imports the latter, and does not say so


def prepare(source: str, data_dir: str) -> str:
    """Write a data set; returns a line that says where it is."""
    if source in embedded.FACTS:
        told = f"is embedded, and needs no preparation; `lmjax data prepare tfds:{source}`"
        raise InputError(f"{source} {told} writes it for TFDS")
    name, root = prepared.parse(source), prepared.folder(data_dir)
    if prepared.is_embedded(name):
        prepared.write_embedded(source, data_dir)
    else:
        _download(source, str(name).removeprefix(prepared.PREFIX), root)
    path = prepared.find(source, data_dir)
    prepared.open_set(source, data_dir)
    return f"{source} is prepared in {path}"


def command(name: str, root: epath.Path) -> list[str]:
    """What prepares a data set in an environment of its own."""
    needed = [*BESIDE, *(f"{package}=={importlib.metadata.version(package)}" for package in PINNED)]
    with_all = [word for package in needed for word in ("--with", package)]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment = ["uv", "run", "--quiet", "--no-project", "--isolated", "--python", python]
    script = Path(download.__file__)
    return [*environment, *with_all, "python", "-P", str(script), name, str(root)]


def _download(source: str, name: str, root: epath.Path) -> None:
    words = command(name, root)
    if shutil.which(words[0]) is None:
        raise InputError(f"{source} is prepared by uv, which is not installed: pip install uv")
    print(f"running: {shlex.join(words)}", flush=True)
    status, last = run(words)
    if status == download.UNKNOWN:
        raise InputError(f"{source}: {last}")
    if status:
        raise RunError(f"{source} could not be prepared: {last}")


def run(words: Sequence[str]) -> tuple[int, str]:
    """(exit status, last line on stderr); what is written to stdout is seen at once."""
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
    told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, told[-1] if told else f"exit status {done.returncode}"
