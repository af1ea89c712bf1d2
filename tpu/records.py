"""What this launcher has created: one JSON file each, and the label that marks it in the cloud.

A resource is the launcher's own where both agree: the file says that it was asked for from here,
and the label `lmjax-owner`, drawn at random once for this folder, that it is that one and not
another of the same name. The file is written before the resource is asked for, so that none can be
paid for and forgotten.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmjax.errors import InputError, unknown

LABEL = "lmjax-owner"
TIERS = ("on-demand", "spot", "reserved")


@dataclasses.dataclass
class Resource:
    """One queued resource with one slice, and what is known of its cost and its run."""

    name: str
    project: str
    zone: str
    accelerator: str
    runtime: str
    tier: str  # one of TIERS
    price: float  # dollars for a chip and an hour, as the user gave it
    options: dict[str, str]  # further flags of `queued-resources create`
    owner: str  # value of the label
    looked: float  # when it was last looked at, in seconds since 1970
    active: bool = False  # whether it was ACTIVE then
    billed: float = 0.0  # seconds of being ACTIVE, at most
    pushed: str = ""  # the archive that its workers have; none since it was created anew
    restarts: int = 0  # by babysit
    command: list[str] = dataclasses.field(default_factory=list)  # the run's words


def folder() -> Path:
    """Where the records lie: lmjax-tpu in XDG_STATE_HOME, or in ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "state") / "lmjax-tpu"


def owner() -> str:
    """This folder's own value of the label, drawn when it is first asked for."""
    path = folder() / "owner"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that draw at once must agree, so the first link wins.
        drawn = path.with_name(f"owner.{os.getpid()}")
        drawn.write_text(secrets.token_hex(8) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(drawn, path)
        drawn.unlink()
    return path.read_text().strip()


def names() -> list[str]:
    """Of every resource that was created and not deleted from here."""
    return sorted(path.stem for path in folder().glob("*.json"))


def load(name: str) -> Resource:
    """The record of a resource; raises InputError for one that is not this launcher's."""
    if name in names():
        with contextlib.suppress(FileNotFoundError):  # deleted between the two
            try:
                held: dict[str, Any] = json.loads(_path(name).read_text())
                return Resource(**held)
            except (ValueError, TypeError):
                told = "is damaged; see in the cloud's console whether it costs, then remove it"
                raise InputError(f"{_path(name)} {told}") from None
    known = names()
    if not known:
        raise InputError(f"{name!r} was not created by this launcher, nor was anything else")
    raise InputError(f"not created by this launcher: {unknown('resource', name, known)}")


def load_all() -> tuple[list[Resource], list[str]]:
    """(the records that can be read, a line for each other one)."""
    found, damaged = [], []
    for name in names():
        try:
            found.append(load(name))
        except InputError as error:
            damaged.append(str(error))
    return found, damaged


def save(resource: Resource) -> None:
    """Write the record, whole or not at all."""
    path = _path(resource.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(dataclasses.asdict(resource), indent=1) + "\n")
    draft.replace(path)


@contextlib.contextmanager
def claim(name: str) -> Iterator[None]:
    """Within it, no other process changes the resource; raises InputError where one does."""
    folder().mkdir(parents=True, exist_ok=True)
    with open(_path(name).with_suffix(".lock"), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{name} is in the hands of another process, a babysit perhaps; end that first"
            ) from None
        yield


def forget(resource: Resource) -> None:
    """Remove the record of a resource that is no more."""
    _path(resource.name).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return folder() / f"{name}.json"
