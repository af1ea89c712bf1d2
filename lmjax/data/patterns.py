"""Whether a pattern of files reaches into a run directory, told without looking at any file."""

import fnmatch
import glob
import itertools
import os
from pathlib import Path

from lmjax.runfiles import FILES


def reaches(pattern: str, run: str) -> bool:
    """Whether a recursive glob can match what a run writes into its directory.

    In the directory itself its files are known by name; below it, whatever lies as deep counts.
    """
    names = Path(os.path.expanduser(pattern)).parts
    fixed = [*itertools.takewhile(lambda name: not glob.has_magic(name), names)]
    top = Path(os.path.realpath(os.path.join("", *fixed))).parts
    wanted = [*map(glob.escape, top), *names[len(fixed) :]]
    have = Path(os.path.realpath(run)).parts
    for name, ours in zip(wanted, have, strict=False):
        if name == "**":
            return True
        if not fnmatch.fnmatchcase(ours, name):
            return False
    rest = wanted[len(have) :]
    if len(rest) == 1 and rest != ["**"]:
        return any(fnmatch.fnmatchcase(file, rest[0]) for file in FILES)
    return bool(rest)
