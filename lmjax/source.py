"""Which code runs: its commit, and the digest of every file, wherever it was installed."""

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmjax
from lmjax.parts import Part
from lmjax.record import digest

GIT_SECONDS = 10.0  # after which git is taken for missing
SHORT = 12  # hex digits of a commit or a file, for a reader and in the list of files


class Code(NamedTuple):
    """What the run's numbers are computed by."""

    commit: str | None  # None where the package is in no commit
    changed: list[str]  # files that are not as in that commit
    diff: str | None  # SHA-256 of `git diff`; None where nothing changed
    tree: str  # SHA-256 over all files of the package
    files: dict[str, str]  # path in the package -> start of its SHA-256
    parts: dict[str, str]  # the same for files elsewhere that define parts of the configuration

    def limits(self) -> list[str]:
        """Why nobody could get this code again; empty where somebody can."""
        if self.commit is None:
            return [
                f"lmjax is in no commit, its tree of digest {self.tree[:SHORT]} is all there is"
            ]
        if self.changed:
            told = ", ".join(self.changed[:3]) + (", ..." if len(self.changed) > 3 else "")
            return [f"{told} not as in commit {self.commit[:SHORT]}"]
        return []


def read_code(part: Part) -> Code:
    """The code of this process, with the files that define parts of a configuration."""
    return _package(Path(lmjax.__file__).parent)._replace(parts=_defining(part))


@functools.cache  # the files as they were imported, whatever becomes of them
def _package(folder: Path) -> Code:
    whole = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.py"))
    }
    commit, changed, diff = _commit(folder)
    files = {name: told[:SHORT] for name, told in whole.items()}
    return Code(commit, changed, diff, digest(whole), files, {})


def _commit(folder: Path) -> tuple[str | None, list[str], str | None]:
    """(commit, files changed since, digest of the difference) of a folder under git."""
    where = [folder.name, "experiments"]
    # A package that lies ignored in somebody's repository is in none of its commits.
    if not _git(folder, "ls-files", "--", f"{folder.name}/__init__.py"):
        return None, [], None
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--no-renames", "--", *where)
    if not commit or status is None:
        return None, [], None
    changed = sorted(line[3:] for line in status.splitlines())
    diff = _git(folder, "diff", "HEAD", "--", *where) if changed else None
    told = None if diff is None else hashlib.sha256(diff.encode()).hexdigest()
    return commit.strip(), changed, told


def _git(folder: Path, *words: str) -> str | None:
    """What git says, or None where it cannot."""
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=folder.parent,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=GIT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _defining(part: Part) -> dict[str, str]:
    """Name -> digest of the files outside lmjax in which classes of the configuration stand."""
    names = {type(each).__module__ for each in _all(part)}
    names = {name for name in names if name.partition(".")[0] != lmjax.__name__}
    files = {name: getattr(sys.modules[name], "__file__", None) for name in sorted(names)}
    return {
        Path(file).name: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:SHORT]
        for file in files.values()
        if file and Path(file).is_file()
    }


def _all(part: Part) -> Iterator[Part]:
    yield part
    for _, value in part.children():
        if isinstance(value, Part):
            yield from _all(value)


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The files in which two records of code differ, or that only one has."""
    found = []
    for kind in ("files", "parts"):
        old, new = then[kind], now[kind]
        found += sorted(x for x in old.keys() | new.keys() if old.get(x) != new.get(x))
    return found
