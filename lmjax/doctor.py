"""What this machine has, and whether it fits together."""

import importlib.metadata
import os
import platform
from typing import Any

from lmjax.console import aligned
from lmjax.errors import InputError

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "numpy",
    "tyro",
)
PAIR = ("jax", "jaxlib", "flax")  # what breaks in other places when one of them is another


def machine() -> dict[str, Any]:
    """What a result was computed with, for its record."""
    import jax

    devices = jax.devices()
    return {
        "devices": {
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
            "cores": os.cpu_count(),
            "processor": processor(),
        },
        "versions": {"python": platform.python_version(), **versions()},
    }


def processor() -> str:
    """The name of the host's processor, as its system tells it."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Package -> its installed version."""
    return {name: _version(name) for name in PACKAGES}


def examine() -> str:
    """Versions, devices, the pairing of flax with jax, and what is set for whom."""
    import jax

    from lmjax.platforms import table

    found = versions()
    lines = [f"python   {platform.python_version()}, {os.cpu_count()} cores"]
    lines += [f"{name:20s} {version}" for name, version in found.items()]
    lines.append(pairing(found))
    try:
        lines += [f"device   {d.id}: {d.device_kind} ({d.platform})" for d in jax.devices()]
    except RuntimeError as error:
        lines.append(f"devices  cannot be used: {str(error).splitlines()[0]}")
    lines += ["", "set for each kind of device:", aligned(table())]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def check_pairing() -> None:
    """Refuse to compute with a jax, jaxlib or flax that lmjax is not made for."""
    wrong = [told for told in mismatches(versions()) if told.split()[0] in PAIR]
    if wrong:
        python = platform.python_version()
        raise InputError(f"{'; '.join(wrong)}, as Python {python} needs it; see `lmjax doctor`")


def mismatches(versions: dict[str, str]) -> list[str]:
    """A line for each installed version that lmjax is not tested with on this Python."""
    from packaging.requirements import Requirement

    wrong = []
    for text in importlib.metadata.requires("lmjax") or []:
        requirement = Requirement(text)
        name, marker = requirement.name, requirement.marker
        if name not in versions or (marker is not None and not marker.evaluate({"extra": ""})):
            continue
        if not requirement.specifier.contains(versions[name], prereleases=True):
            wrong.append(f"{name} {versions[name]} is not {requirement.specifier}")
    return wrong


def pairing(versions: dict[str, str]) -> str:
    """Whether the installed versions are those that lmjax is tested with on this Python."""
    wrong = mismatches(versions)
    if wrong:
        return f"pairing  does NOT fit Python {platform.python_version()}: {'; '.join(wrong)}"
    return f"pairing  flax {versions['flax']} with jax {versions['jax']} fits"
