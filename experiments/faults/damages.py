"""Files of the newest checkpoint that are damaged while nobody looks."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.faults.journal import GOOD, LOST, SILENT, Fault, Outcome
from experiments.faults.subject import NEWER, OLDER, Found
from experiments.faults.zygote import Worker
from lmjax.runfiles import CHECKPOINTS

BLOCK = 512  # bytes, of a disk


class Damages:
    """A copy of a finished run, damaged and mended again and again."""

    def __init__(self, reader: Worker, run: Path, digests: dict[int, str], seed: int):
        self._reader, self._run, self._digests, self._seed = reader, run, digests, seed
        self._steps = run / CHECKPOINTS
        self._step = self._steps / str(NEWER)
        self._kept = {path: path.read_bytes() for path in files_of(self._steps)}
        self.files = [path for path in files_of(self._step) if path.stat().st_size]
        self.folders = sorted(path for path in self._step.rglob("*") if path.is_dir())

    def faults(self, flips: int, quick: bool) -> list[Fault]:
        """A trial for each file, or, if `quick`, for a few of them."""
        few = slice(None, None, 5 if quick else 1)
        files, folders = self.files[few], self.folders[few]
        swaps = [(a, b) for a, b in itertools.pairwise(files) if other(a, b)]
        old = [(a, b) for a in files if (b := self._older(a)).exists() and other(a, b)]
        whole = range(3 if quick else 20)
        return [
            self._fault("one bit flipped at random", range(flips), self._flip_anywhere),
            self._fault("each file: one bit flipped", files, self._flip),
            self._fault("each file: truncated", files, self._truncate),
            self._fault("each file: emptied", files, lambda file, _: file.write_bytes(b"")),
            self._fault("each file: removed", files, lambda file, _: file.unlink()),
            self._fault("each file: a block zeroed", files, self._zero),
            self._fault("each folder removed", folders, lambda path, _: shutil.rmtree(path)),
            self._fault("two files swapped", swaps, lambda pair, _: swap(*pair)),
            self._fault("a file of an older step in its place", old, put_older),
            self._fault("every step damaged", whole, self._flip_in_each, 0),
        ]

    def _fault(
        self, name: str, places: list | range, damage: Callable, left: int | None = None
    ) -> Fault:
        """`left`: the step that may be taken after it, 0 = none; by default the older one."""
        expected = OLDER if left is None else left

        def trial(number: int) -> Outcome:
            random = np.random.default_rng([self._seed, number])
            try:
                damage(places[number], random)
                return self._judge(self._reader("recover", str(self._run)), expected)
            finally:
                self._mend()

        return Fault(name, len(places), trial)

    def _judge(self, found: Found, expected: int) -> Outcome:
        """Whether what was found is what was saved, and the damage was told."""
        if found.told.startswith("!"):
            return Outcome(LOST, found.told)
        if found.step and found.digest != self._digests[found.step]:
            return Outcome(SILENT, f"step {found.step} is taken with other bits; {found.told}")
        if found.step == NEWER:
            return Outcome(SILENT, "nobody noticed; the bits are the same")
        if found.step != expected or str(self._step) not in found.told:
            return Outcome(LOST, f"step {found.step} is taken, not {expected}; {found.told}")
        return Outcome(GOOD, found.told)

    def _mend(self) -> None:
        """As it was before the damage."""
        for path, content in self._kept.items():
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def _older(self, file: Path) -> Path:
        return self._steps / str(OLDER) / file.relative_to(self._step)

    def _flip_anywhere(self, _: int, random: np.random.Generator) -> None:
        self._flip(self.files[random.integers(len(self.files))], random)

    def _flip_in_each(self, _: int, random: np.random.Generator) -> None:
        for step in (OLDER, NEWER):
            files = [path for path in files_of(self._steps / str(step)) if path.stat().st_size]
            self._flip(files[random.integers(len(files))], random)

    @staticmethod
    def _flip(file: Path, random: np.random.Generator) -> None:
        content = bytearray(file.read_bytes())
        bit = int(random.integers(8 * len(content)))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)

    @staticmethod
    def _truncate(file: Path, random: np.random.Generator) -> None:
        content = file.read_bytes()
        file.write_bytes(content[: random.integers(1, len(content))])

    @staticmethod
    def _zero(file: Path, random: np.random.Generator) -> None:
        content = bytearray(file.read_bytes())
        starts = range(0, len(content), BLOCK)
        begin = random.choice([n for n in starts if any(content[n : n + BLOCK])])
        end = min(begin + BLOCK, len(content))
        content[begin:end] = bytes(end - begin)
        file.write_bytes(content)


def files_of(folder: Path) -> list[Path]:
    """All files below it, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def other(one: Path, two: Path) -> bool:
    """Whether two files hold different bytes."""
    return one.read_bytes() != two.read_bytes()


def put_older(pair: tuple[Path, Path], _: np.random.Generator) -> None:
    """The first takes the content of the second."""
    pair[0].write_bytes(pair[1].read_bytes())


def swap(one: Path, two: Path) -> None:
    """Each takes the content of the other."""
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)
