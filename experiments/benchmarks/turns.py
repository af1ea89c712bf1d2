"""Two things measured in turns, so that what else the machine does meets both.

A pair is one block of each, neighbours in time, and gives one ratio; which of the two comes first
alternates. A second block of the other one beside its first gives the noise of such a ratio.
"""

import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple

BUSY = 1.25  # ratio of equal blocks, in the quartiles, from which nothing can be concluded


class Turns(NamedTuple):
    """Seconds that blocks took, a list entry for each pair."""

    ours: list[float]
    other: list[float]  # the block of the other one that is ours's neighbour
    again: list[float]  # the neighbour of that


def take_turns(
    ours: Callable[[], float],
    other: Callable[[], float],
    pairs: int,
    limit: float = math.inf,
) -> Turns:
    """Seconds of blocks that alternate; each call runs one block and returns what it took.

    Two pairs are taken however long they take; no further one begins after `limit` seconds.
    """
    turns, begun = Turns([], [], []), time.monotonic()
    for pair in range(pairs):
        if pair >= 2 and time.monotonic() - begun > limit:
            break
        seconds = [call() for call in ([ours, other, other] if pair % 2 else [other, other, ours])]
        for taken, value in zip(turns, seconds if pair % 2 else seconds[::-1], strict=True):
            taken.append(value)
    return turns


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles; of one value, that value."""
    if len(values) == 1:
        values = values * 2
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """The spread of above over below, pair by pair."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def doubt(noise: dict[str, float]) -> str:
    """What to tell where equal blocks differ too much for a ratio to say anything; else "".

    A busy machine slows the two unequally: PyTorch's threads wait for each other without sleeping.
    """
    if max(noise["high"], 1 / noise["low"]) < BUSY:
        return ""
    return " (BUSY MACHINE: this says nothing)"


class Peer:
    """A script under another interpreter, which answers a line of JSON with a line of JSON."""

    def __init__(self, python: str, script: str):
        self.process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **question: Any) -> Any:
        """The answer; raises RuntimeError where the script has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"the peer died with {self.process.wait()}") from None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer died with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
