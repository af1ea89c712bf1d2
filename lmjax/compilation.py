"""Compiled programs are kept from process to process, in a directory that is the user's alone.

What lies there is run as code, so nobody else may write there. It is $XDG_CACHE_HOME/lmjax/xla, by
default ~/.cache/lmjax/xla, and in it a directory for each kind of machine: JAX's own key leaves out
how many cores XLA splits the work of a CPU over, and in some versions what its processor can do.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax

from lmjax.errors import InputError

PRIVATE = 0o700
DIRECTORY = "jax_compilation_cache_dir"  # JAX's setting


def use_cache() -> None:
    """Have JAX keep every program that it compiles from now on, and take it from there.

    Where a directory is set already, by JAX_COMPILATION_CACHE_DIR or by jax.config, it is left
    alone ("" keeps nothing). Raises InputError where the directory cannot be made private.
    """
    if getattr(jax.config, DIRECTORY) is not None:
        return
    folder = cache_folder()
    make_private(folder)
    jax.config.update(DIRECTORY, str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def cache_folder() -> Path:
    """Where programs for this machine are kept."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = chosen if chosen.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise InputError(f"no home directory ({error})") from None
    return base / "lmjax" / "xla" / machine()


def machine() -> str:
    """Eight hex digits over what code for a CPU depends on: the processor and the visible cores."""
    cores = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()]
    cores += [os.environ.get(name) for name in ("PJRT_NPROC", "NPROC")]  # XLA reads them too
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else [platform.processor()]
    kinds = ("model name", "flags", "Features", "CPU part")  # of x86 and of ARM
    processor = sorted({line for line in lines if line.startswith(kinds)}) or lines
    told = repr((platform.machine(), cores, processor))
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def make_private(folder: Path) -> None:
    """Make the directory and its two parents, and see that only this user can use it."""
    try:
        for part in (folder.parent.parent, folder.parent, folder):
            part.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.geteuid():
            raise InputError(f"{folder} belongs to another user")
        if found.st_mode & 0o777 != PRIVATE:
            folder.chmod(PRIVATE)
    except OSError as error:
        raise InputError(f"{folder} cannot be made private ({error.strerror})") from None
    if folder.is_symlink() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written to")
