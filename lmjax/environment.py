"""What a run's bits depend on beside its configuration and its code: the machine and its settings.

Nothing that a person would keep to himself is written down: variables are taken from a list, names
that speak of secrets never, and user names and passwords are cut out of addresses.
"""

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import Mesh

from lmjax.doctor import processor, versions
from lmjax.platforms import compiler_options, visible_cores

VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "PJRT_NPROC", "NPROC")
PREFIXES = ("JAX_", "NCCL_")
SECRET = re.compile("key|token|secret|passw|credential|auth", re.IGNORECASE)
USER = re.compile(r"(\w+://)[^/\s@]+@")  # of an address
ASSIGNED = re.compile(rf"([\w.-]*(?:{SECRET.pattern})[\w.-]*)=[^&\s]+", re.IGNORECASE)
HIDDEN = "***"
DEVICE_COUNT = re.compile(r"--xla_force_host_platform_device_count=\S+\s*")
SETTINGS = (  # of jax.config, those that can change a number; not every version has all of them
    "jax_compiler_enable_remat_pass",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_disable_jit",
    "jax_enable_x64",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
    "jax_numpy_dtype_promotion",
    "jax_optimization_level",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_threefry_gpu_kernel_lowering",
    "jax_threefry_partitionable",
    "jax_use_shardy_partitioner",
)

Kind = Literal["cores", "flag", "version", "machine", "devices"]


class Difference(NamedTuple):
    """One thing that is not as it was."""

    kind: Kind
    name: str
    then: Any
    now: Any

    def __str__(self) -> str:
        if isinstance(self.then, list) and isinstance(self.now, list):
            gone, new = set(self.then) - set(self.now), set(self.now) - set(self.then)
            told = [f"without {_some(gone)}"] if gone else []
            return f"{self.name} {' '.join([*told, *([f'with {_some(new)}'] if new else [])])}"
        return f"{self.name} {_shown(self.then)}, now {_shown(self.now)}"


def _shown(value: Any) -> str:
    return "none" if value in (None, "") else str(value)


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "")


def read_environment(mesh: Mesh, shards: int = 1) -> dict[str, Any]:
    """All of it, as plain values; `mesh` is the one that the run computes on, `shards` virtual."""
    devices = list(mesh.devices.flat)
    kind, name = devices[0].platform, devices[0].device_kind
    return {
        "variables": variables(dict(os.environ)),
        "settings": {
            name: getattr(jax.config, name) for name in SETTINGS if hasattr(jax.config, name)
        },
        "compiler": compiler_options(kind, len(devices), shards),
        "versions": {"python": platform.python_version(), **versions()},
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "processor_flags": processor_flags(),
            "cores": visible_cores(),
        },
        "devices": {
            "platform": kind,
            "kind": name,
            "count": len(devices),
            "processes": jax.process_count(),
            "mesh": {str(axis): size for axis, size in mesh.shape.items()},
        },
    }


def variables(environment: dict[str, str]) -> dict[str, str]:
    """Those of the list that are set, without secrets."""
    return {
        name: redacted(value)
        for name, value in sorted(environment.items())
        if (name in VARIABLES or name.startswith(PREFIXES)) and not SECRET.search(name)
    }


def redacted(text: str) -> str:
    """The text without the user info of addresses and without what is assigned to a secret."""
    return ASSIGNED.sub(rf"\1={HIDDEN}", USER.sub(rf"\1{HIDDEN}@", text))


def command_line(words: Sequence[str]) -> list[str]:
    """The words of a command, without secrets."""
    found: list[str] = []
    for word in words:
        after = found[-1] if found else ""
        hides = after.startswith("-") and "=" not in after and SECRET.search(after)
        found.append(HIDDEN if hides else redacted(word))
    return found


def processor_flags() -> list[str]:
    """What the processor can do, as Linux tells it; [] elsewhere."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    told = [x.partition(":")[2].split() for x in lines if x.startswith(("flags", "Features"))]
    return sorted(set(told[0])) if told else []


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """What of two environments can make a difference to a bit.

    JAX_ variables count by the settings that they make; the number of simulated devices by the
    devices that there are.
    """
    found = _of("version", then["versions"], now["versions"])
    found += _of("flag", then["settings"], now["settings"])
    found += _of("flag", then["compiler"], now["compiler"])
    found += _of("flag", _flags(then["variables"]), _flags(now["variables"]))
    old, new = dict(then["machine"]), dict(now["machine"])
    cores = len(old.pop("cores")), len(new.pop("cores"))
    found += [Difference("cores", "visible cores", *cores)] if cores[0] != cores[1] else []
    found += _of("machine", old, new)
    return found + _of("devices", then["devices"], now["devices"])


def _of(kind: Kind, then: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    return [
        Difference(kind, name, then.get(name), now.get(name))
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _flags(told: dict[str, str]) -> dict[str, str]:
    """The variables that are no settings of JAX's, without the number of simulated devices."""
    found = {name: text for name, text in told.items() if not name.startswith("JAX_")}
    found["XLA_FLAGS"] = DEVICE_COUNT.sub("", found.get("XLA_FLAGS", "")).strip()
    return found
