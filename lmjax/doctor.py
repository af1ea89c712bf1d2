"""What this machine has, and whether it fits together."""

import importlib.metadata
import os
import platform

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


def examine() -> str:
    """Versions, devices and the pairing of flax with jax, one line each."""
    import jax

    versions = {name: _version(name) for name in PACKAGES}
    lines = [f"python   {platform.python_version()}, {os.cpu_count()} cores"]
    lines += [f"{name:20s} {version}" for name, version in versions.items()]
    lines.append(pairing(versions))
    try:
        lines += [f"device   {d.id}: {d.device_kind} ({d.platform})" for d in jax.devices()]
    except RuntimeError as error:
        lines.append(f"devices  cannot be used: {str(error).splitlines()[0]}")
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def pairing(versions: dict[str, str]) -> str:
    """Whether the installed versions are those that lmjax is tested with on this Python."""
    from packaging.requirements import Requirement

    wrong = []
    for text in importlib.metadata.requires("lmjax") or []:
        requirement = Requirement(text)
        name, marker = requirement.name, requirement.marker
        if name not in versions or (marker is not None and not marker.evaluate({"extra": ""})):
            continue
        if not requirement.specifier.contains(versions[name], prereleases=True):
            wrong.append(f"{name} {versions[name]} is not {requirement.specifier}")
    if wrong:
        return f"pairing  does NOT fit Python {platform.python_version()}: {'; '.join(wrong)}"
    return f"pairing  flax {versions['flax']} with jax {versions['jax']} fits"
