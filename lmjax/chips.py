"""Chips that a plan can be made for: what they compute, hold and send in a second.

A topology is written as TPU:XxY or TPU:XxYxZ, the sides of its torus in chips, and anything else as
NAME:COUNT. A v5p-128 is 64 chips, 4x4x4: Google counts its cores.
"""

import difflib
import math
import re
from typing import NamedTuple

from lmjax import flops
from lmjax.errors import InputError, unknown


class Chip(NamedTuple):
    """What one chip does. 0 = not known, or it has none."""

    kind: str  # device_kind, by which lmjax/flops.py knows its peak
    memory: int = 0  # bytes that a program may use, as libtpu tells when one needs more
    bandwidth: float = 0  # bytes per second between it and its memory
    link: float = 0  # bytes per second to each neighbour, in one direction
    network: float = 0  # bytes per second that it sends to chips of another slice
    sides: int = 0  # of the torus
    ring: int = 0  # a side closes to a ring only where it is a multiple of so many chips
    pod: int = 0  # chips in the largest slice, which may be less than a pod of them
    lanes: int = 128  # rows and columns of its matrix unit

    @property
    def peak(self) -> float:
        """Dense bfloat16 FLOP/s; 0 where it is not known."""
        return flops.peak(self.kind) or 0.0


# Memory from libtpu's own messages; bandwidths from Google's data sheets and
# https://jax-ml.github.io/scaling-book/tpus ("How to Scale Your Model", 2025). A pod of v5p has
# 8,960 chips, but its largest slice is 16x16x24: https://docs.cloud.google.com/tpu/docs/v5p
TPUS = {
    "v5e": Chip("TPU v5e", int(15.75 * 2**30), 8.1e11, 4.5e10, 3.125e9, 2, 16, 256),
    "v5p": Chip("TPU v5p", int(95.74 * 2**30), 2.765e12, 9e10, 6.25e9, 3, 4, 6144),
    "v6e": Chip("TPU v6e", int(31.25 * 2**30), 1.64e12, 9e10, 1.25e10, 2, 16, 256, 256),
}
OTHERS = {  # of which no program can be compiled here
    "a100": Chip("NVIDIA A100", 80 * 10**9, 2.039e12),
    "h100": Chip("NVIDIA H100 SXM", 80 * 10**9, 3.35e12),
    "h200": Chip("NVIDIA H200", 141 * 10**9, 4.8e12),
    "v4": Chip("TPU v4", 32 * 2**30, 1.228e12),
}


class Topology(NamedTuple):
    """Slices of a torus of chips, or a number of chips of which no more is known."""

    name: str  # as it was given
    chip: Chip
    shape: tuple[int, ...]  # sides of one slice
    slices: int = 1

    @property
    def chips(self) -> int:
        """All of them."""
        return self.slices * math.prod(self.shape)

    @property
    def compiles(self) -> bool:
        """Whether libtpu can compile for it."""
        return self.chip in TPUS.values()

    def closes(self, side: int) -> bool:
        """Whether that side is a ring. Of three sides all are, or none: whole cubes are joined by
        switches, and a part of a cube has no links around.
        """
        sides = self.shape if self.chip.sides == 3 else (self.shape[side],)
        return all(length % self.chip.ring == 0 for length in sides)

    def __str__(self) -> str:
        return f"{self.name} ({self.slices} slices)" if self.slices > 1 else self.name


def read_topology(text: str, slices: int = 1) -> Topology:
    """The topology of that name; raises InputError where there is none."""
    name, _, rest = text.lower().partition(":")
    if slices < 1:
        raise InputError(f"--slices {slices}: must be >= 1")
    if not name or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", rest):
        allowed = "must be v5e:XxY, v6e:XxY or v5p:XxYxZ (chips), or NAME:COUNT of other chips"
        raise InputError(f"--topology {text!r}: {allowed}")
    shape = tuple(map(int, rest.split("x")))
    if name not in TPUS:
        return _others(text, name, shape, slices)
    chip = TPUS[name]
    if len(shape) != chip.sides:
        sides = "x".join("XYZ"[: chip.sides])
        raise InputError(f"--topology {text!r}: {name} has {chip.sides} sides, {name}:{sides}")
    if (most := math.prod(shape)) > chip.pod:
        raise InputError(f"--topology {text!r}: {most:,} chips; {name} has at most {chip.pod:,}")
    return Topology(text.lower(), chip, shape, slices)


def _others(text: str, name: str, shape: tuple[int, ...], slices: int) -> Topology:
    """Chips without a torus. A name that is nearly a known one is a slip, not a chip."""
    known = {**TPUS, **OTHERS}
    if len(shape) > 1 or slices > 1:
        raise unknown("TPU", name, TPUS)
    if name not in OTHERS and difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        raise unknown("chip", name, known)
    return Topology(text.lower(), OTHERS[name] if name in OTHERS else Chip(name), shape)
