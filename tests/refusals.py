"""Commands to be refused, each run by `lmjax.cli.main` in a process that has no device yet.

One process serves all cases of a test file, so that JAX is imported once. It says of each case what
`main` returned or raised, what was written to stdout and stderr, by native code as well, whether
JAX has looked for devices, and how much memory the case took at its peak. It may not take more
than ROOM, so that a bomb that goes off ends the case and not the machine.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
ROOM = 4 * 2**30  # bytes of addresses beyond those that the imports take
SECONDS = 60  # until a case that hangs is ended
SMALL = 64 * 2**20  # bytes that a refusal may take at its peak


class Outcome(NamedTuple):
    """What has become of a command."""

    status: int | None  # None = it raised
    out: str
    err: str
    raised: str  # the traceback of what got out of `main`; "" = nothing did
    touched: bool  # whether JAX has looked for devices
    peak: int  # bytes of memory beyond what was there before


class Server:
    """The process that runs the cases."""

    def __init__(self, environment: dict[str, str]):
        own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": ""}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **own, **environment},
            text=True,
        )
        atexit.register(self._process.kill)

    def run(self, folder: Path, words: Sequence[str]) -> Outcome | None:
        """Run one command in a folder; None = the process has died of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), "words": list(words)}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        return Outcome(**json.loads(line)) if line else None

    @property
    def end(self) -> int:
        """Its exit status, once it has died."""
        return self._process.wait()


_servers: dict[str, Server] = {}  # by their environment


def outcome(folder: Path, words: Sequence[str], **environment: str) -> Outcome:
    """Run a command in a folder, in a process with these variables; fails if that dies of it."""
    key = json.dumps(environment, sort_keys=True)
    if key not in _servers:
        _servers[key] = Server(environment)
    found = _servers[key].run(folder, words)
    if found is None:
        raise AssertionError(f"{words} ended its process with {_servers.pop(key).end}")
    return found


def refused(
    folder: Path,
    words: Sequence[str],
    *told: str,
    touches: bool = False,
    most: int = SMALL,
    **environment: str,
) -> str:
    """The one line that a command is refused with; fails where it is not refused as it should be.

    Args:
      folder: to run it in; nothing in it may change.
      words: of the command.
      told: what must stand in the line.
      touches: whether devices may be looked for, as their number must be to be refused.
      most: bytes of memory that it may take.
      environment: variables of its process.
    """
    before = content(folder)
    found = outcome(folder, words, **environment)
    assert not found.raised, found.raised
    assert found.status == 2, found
    assert found.out == "", found.out
    assert found.err.count("\n") == 1, found.err
    assert found.err.endswith("\n")
    assert found.err.startswith("lmjax: ")
    for part in told:
        assert part in found.err, found.err
    assert content(folder) == before
    assert touches or not found.touched, f"{words} looked for devices: {found.err}"
    assert found.peak < most, f"{found.peak / 2**20:.0f} MiB for {found.err}"
    return found.err


def content(folder: Path) -> dict[str, bytes | str]:
    """All that lies in a folder: files with their content, links with what they lead to."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            sparse = path.stat().st_size > 2**24
            found[name] = str(path.stat().st_mtime_ns) if sparse else path.read_bytes()
        else:
            found[name] = ""
    return found


def serve() -> None:
    """Answer one line of stdin after the other, until there are no more."""
    import safetensors  # noqa: F401  # that what is imported counts for no case
    import sklearn.datasets
    import sklearn.model_selection  # noqa: F401
    import tokenizers  # noqa: F401
    import tyro  # noqa: F401
    from PIL import Image  # noqa: F401

    import lmjax.pretrained.export
    import lmjax.reproduce
    import lmjax.sample
    import lmjax.train  # noqa: F401
    from experiments import char_gpt, digits_fcn  # noqa: F401

    sys.path.insert(0, "")  # as in `python -m lmjax`, where a folder can bring modules of its own
    answers = os.fdopen(os.dup(1), "w")
    most = status("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request["folder"])
        signal.alarm(SECONDS)
        answers.write(json.dumps(answer(request["words"])) + "\n")
        os.chdir("/")  # so that the folder can be removed
        answers.flush()
        signal.alarm(0)


def answer(words: list[str]) -> dict[str, Any]:
    """The outcome of one command, as plain values."""
    from jax._src import xla_bridge
    from jax.extend.backend import clear_backends

    from lmjax import cli

    returned, raised = None, ""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        begun = reset_peak()
        try:
            returned = cli.main(words)
        except BaseException:  # a panic of Rust code is no Exception
            raised = traceback.format_exc()
        peak = status("VmHWM") - begun
        sys.stdout.flush()
        sys.stderr.flush()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
    touched = bool(xla_bridge._backends)
    if touched:  # the next case begins without
        clear_backends()
    return Outcome(returned, texts[0], texts[1], raised, touched, peak)._asdict()


def reset_peak() -> int:
    """Bytes of memory that are held now, from which the peak is counted."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    """Bytes, as the system tells them of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 2**10 for x in lines if x.startswith(f"{name}:"))


if __name__ == "__main__":
    serve()
