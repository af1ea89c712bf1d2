"""What is set for each kind of device, with the reason. `lmjax doctor` prints it.

Options of the compiler go with each compiled program, so they touch no environment and no other
program of the process. Those of the C library's malloc hold for the whole process, and only for
threads that start later: they are set before JAX is asked for its devices.
"""

import ctypes
import importlib
import importlib.util
import os
from typing import Any, Literal, NamedTuple

Platform = Literal["any", "cpu", "gpu", "tpu"]
Where = Literal["compiler", "malloc", "environment", "blas"]
Only = Literal["", "several", "virtual shards"]  # several: where there is more than one device


class Setting(NamedTuple):
    """One thing that is set."""

    platform: Platform
    where: Where
    name: str
    value: Any
    only: Only  # "" = always
    reason: str


SETTINGS = (
    Setting(
        "any",
        "malloc",
        "M_MMAP_THRESHOLD",
        2**25,
        "",
        "XLA allocates a step's temporaries anew each time; what malloc maps and unmaps costs a "
        "page fault per 4 kB (a GPT of 4 layers: 13,000 a step, 47 ms with them and 36 without)",
    ),
    Setting("any", "malloc", "M_TRIM_THRESHOLD", 2**31 - 1, "", "freed memory is kept for it"),
    Setting("any", "malloc", "M_TOP_PAD", 2**26, "", "and taken in large pieces"),
    Setting(
        "cpu",
        "environment",
        "PJRT_NPROC",
        "their number, where there are fewer cores",
        "virtual shards",
        "XLA has as many threads as cores or simulated devices, whichever are more, and cuts the "
        "inner axis of some products by their number, which decides last bits",
    ),
    Setting(
        "cpu",
        "compiler",
        "xla_disable_hlo_passes",
        "cse",
        "virtual shards",
        "programs for several devices have common subexpressions merged before they are simplified "
        "as well, which rounded char_gpt's gradients otherwise on one device than on two; without "
        "it a step takes no longer",
    ),
    Setting(
        "cpu",
        "blas",
        "threads",
        1,
        "",
        "in `lmjax compare`: XLA's decompositions are LAPACK's, whose threads wait by spinning; "
        "where the cores have other work, a step of SOAP took 27 ms with them and 0.7 without",
    ),
    Setting(
        "gpu",
        "compiler",
        "xla_gpu_enable_latency_hiding_scheduler",
        True,
        "several",
        "collectives run beside products",
    ),
    Setting(
        "tpu",
        "compiler",
        "xla_tpu_scoped_vmem_limit_kib",
        98304,
        "",
        "larger fusions: the default leaves most of the vector memory unused",
    ),
)
M_OPTIONS = {"M_TRIM_THRESHOLD": -1, "M_TOP_PAD": -2, "M_MMAP_THRESHOLD": -3}  # of malloc.h


def settings(platform: str, where: Where, devices: int = 1, shards: int = 1) -> list[Setting]:
    """What is set there."""
    holds = {"": True, "several": devices > 1, "virtual shards": shards > 1}
    return [
        setting
        for setting in SETTINGS
        if (setting.platform, setting.where) == (platform, where) and holds[setting.only]
    ]


def compiler_options(platform: str, devices: int, shards: int = 1) -> dict[str, Any]:
    """For jax.jit; `shards` are virtual ones."""
    found = settings(platform, "compiler", devices, shards)
    return {setting.name: setting.value for setting in found}


def keep_freed_memory() -> list[str]:
    """Tell the C library's malloc what the table says; returns what it took.

    That is nothing where it is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return []
    wanted = settings("any", "malloc")
    return [each.name for each in wanted if mallopt(M_OPTIONS[each.name], each.value) == 1]


def visible_cores() -> list[int]:
    """The numbers of the processor's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def equal_threads(shards: int) -> None:
    """As many threads on fewer simulated devices as on `shards` of them, as the table says.

    Without effect once JAX has been asked for its devices, and where there are cores enough.
    """
    if shards > max(int(os.environ.get("PJRT_NPROC", 0)), len(visible_cores())):
        os.environ["PJRT_NPROC"] = str(shards)


def limit_blas() -> None:
    """Give LAPACK the threads that the table says, where there is threadpoolctl to do it.

    Both libraries are loaded here, which takes .2 s, since only what is loaded can be told.
    """
    if importlib.util.find_spec("threadpoolctl") is None:
        return
    import threadpoolctl

    importlib.import_module("scipy.linalg")
    for setting in settings("cpu", "blas"):
        threadpoolctl.threadpool_limits(setting.value, user_api="blas")


def table() -> list[list[str]]:
    """A row for each setting, for a reader."""
    return [
        [
            ", ".join([setting.platform, *filter(None, [setting.only])]),
            f"{setting.where}: {setting.name} = {setting.value}",
            setting.reason,
        ]
        for setting in SETTINGS
    ]
