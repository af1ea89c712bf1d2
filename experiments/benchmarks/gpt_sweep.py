"""The search of gpt_gpu.py for the best settings, within a budget of time, in other processes.

Without jax or torch, so that both sides can import it.
"""

import json
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).parents[2]
LONGER = 1.3  # of the longest try so far, what a further one is given
Tried = dict[str, Any]  # what a try answered, with its point; "refused" says why there is no rate
P = TypeVar("P", bound=Any)  # a NamedTuple with a field `batch`


class Move(NamedTuple):
    """A step of a search from the best point so far."""

    changes: dict[str, Any]
    times: int = 1  # what the batch is multiplied by


class Budget:
    """Seconds that may be spent, and what was left out because they were not enough."""

    def __init__(self, seconds: float, cut: list[str] | None = None):
        self.end = time.monotonic() + seconds
        self.cut: list[str] = [] if cut is None else cut

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def share(self, part: float) -> "Budget":
        """A budget of a part of what is left; what it leaves out is told here too."""
        return Budget(part * self.left, self.cut)

    def allows(self, seconds: float, what: str) -> bool:
        """Whether there is time for it; what there is none for is noted."""
        if self.left >= seconds:
            return True
        self.cut.append(f"{what} ({seconds:.0f} s, {max(0.0, self.left):.0f} s were left)")
        return False


class Worker:
    """A script in a process of its own, which answers a line of JSON with a line of JSON.

    What it prints beside that goes to a log. It is this process's child, and no other is ended.
    """

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None):
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.log, self.name = log, command[-1]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **(environment or {})},
            )

    def ask(self, patience: float, **question: Any) -> Any:
        """The answer; raises RuntimeError where it failed, died, or took more seconds than that."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(self.death()) from None
        answer = json.loads(self.line(time.monotonic() + max(patience, 1.0)))
        if isinstance(answer, dict) and "failed" in answer:
            raise RuntimeError(f"{self.name}: {answer['failed']}")
        return answer

    def line(self, end: float) -> bytes:
        """A line of its output. It answers one question at a time, so none comes after it."""
        assert self.process.stdout is not None
        pieces: list[bytes] = []
        while not pieces or not pieces[-1].endswith(b"\n"):
            left = max(0.0, end - time.monotonic())
            ready, _, _ = select.select([self.process.stdout], [], [], left)
            if not ready:
                self.close()
                raise RuntimeError(f"{self.name}: no answer in the time that was left")
            pieces.append(os.read(self.process.stdout.fileno(), 2**16))
            if not pieces[-1]:
                raise RuntimeError(self.death())
        return b"".join(pieces)

    def death(self) -> str:
        """How it ended, with the end of its log."""
        told = self.log.read_text(errors="replace")[-2000:]
        return f"{self.name} died with {self.process.wait()}:\n{told}"

    def close(self) -> None:
        """End it and give back what it holds."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def lives(self) -> bool:
        return self.process.poll() is None


def serve(answers: dict[str, Callable[..., Any]]) -> None:
    """In a worker: answer questions, each named by its field `do`, until there are no more.

    What anything else prints goes to standard error. A failure is an answer too.
    """
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            question = json.loads(line)
            try:
                answer = answers[question.pop("do")](**question)
            except Exception:
                answer = {"failed": traceback.format_exc(limit=-4)}
            print(json.dumps(answer), file=out, flush=True)


class Sweep(NamedTuple):
    """What was tried, in order, and the best of it."""

    tried: list[Tried]
    best: Tried | None  # None = nothing could run


class Search:
    """Tries each point once, and keeps the fastest."""

    def __init__(self, attempt: Callable[[Any], Tried], budget: Budget, name: str):
        self.attempt, self.budget, self.name = attempt, budget, name
        self.tried: dict[Any, Tried] = {}
        self.longest = 0.0  # seconds of a try
        self.best: Any = None

    def rate(self, point: Any) -> float:
        """Tokens a second; 0 where it could not run."""
        if point is None or "tokens_per_second" not in self.tried[point]:
            return 0.0
        return self.tried[point]["tokens_per_second"]

    def better(self, point: Any) -> bool:
        """Whether the point beats all before it. The first is tried whatever time is left."""
        if point in self.tried:
            return False
        what = f"{self.name} {difference(self.best, point)}"
        if self.tried and not self.budget.allows(LONGER * self.longest, what):
            return False
        begun = time.monotonic()
        answer = self.attempt(point)
        seconds = time.monotonic() - begun
        self.longest = max(self.longest, seconds)
        self.tried[point] = {"point": point._asdict(), "took_s": seconds, **answer}
        if self.rate(point) <= self.rate(self.best):
            return False
        self.best = point
        return True

    def found(self) -> Sweep:
        return Sweep(list(self.tried.values()), self.tried[self.best] if self.best else None)


def difference(old: Any, new: Any) -> str:
    """The fields in which a point differs from another."""
    fields = new._asdict()
    changed = [name for name in fields if old is None or fields[name] != getattr(old, name)]
    return " ".join(f"{name}={fields[name]}" for name in changed)


def descend(
    start: P,
    moves: Iterable[Move],
    most: int,
    attempt: Callable[[P], Tried],
    budget: Budget,
    name: str,
) -> Sweep:
    """A short coordinate descent.

    The batch is doubled as long as that is faster, up to `most`; where it never was, or where the
    start did not fit, it is halved as long as that is. Then each move is made on the best point,
    and kept if it is faster.
    """
    search = Search(attempt, budget, name)
    point = start
    while point.batch <= most and search.better(point):
        point = point._replace(batch=2 * point.batch)
    point = start
    while search.best in (None, start, point) and point.batch > 1:
        point = point._replace(batch=point.batch // 2)
        if not search.better(point) and search.best is not None:
            break
    for move in moves:
        if search.best is not None:
            batch = move.times * search.best.batch
            search.better(search.best._replace(**{"batch": batch, **move.changes}))
    return search.found()
