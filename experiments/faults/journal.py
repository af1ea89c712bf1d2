"""Trials, kept as they end, so that the program can itself be killed; and their table."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lmjax.console import clock
from lmjax.errors import InputError

GOOD, SILENT, LOST = "good", "silent", "lost"  # verdicts
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"


class Outcome(NamedTuple):
    """What one trial showed."""

    verdict: str  # GOOD: detected or recovered; SILENT: other bits and no word; LOST: neither
    told: str  # what lmjax said, or where the bits went


class Fault(NamedTuple):
    """One kind of fault, tried a number of times."""

    name: str
    trials: int
    run: Callable[[int], Outcome]
    why_not: str = ""  # it cannot be tried here


class Journal:
    """The outcomes of a program's trials in a file of JSON lines, one a trial."""

    def __init__(self, path: Path, settings: dict[str, Any], say: Callable[[str], None]):
        """Go on with the trials that the file holds; raises InputError for those of others."""
        self._path, self._say = path, say
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        self._seconds: dict[str, list[float]] = {}  # of the trials of each fault, in this process
        if path.exists():
            self._read(settings)
        else:
            path.write_text(json.dumps({"settings": settings}) + "\n")

    def _read(self, settings: dict[str, Any]) -> None:
        first, *lines = self._path.read_text().split("\n")
        if json.loads(first) != {"settings": settings}:
            raise InputError(f"{self._path} holds trials of other settings or code; remove it")
        for line in lines:
            if line.endswith("}"):  # the last one may be torn
                held = json.loads(line)
                key = held["fault"], held["trial"]
                self.outcomes[key] = Outcome(held["verdict"], held["told"])
        kept = [first, *(self._line(*key, outcome) for key, outcome in self.outcomes.items())]
        self._path.write_text("\n".join(kept) + "\n")

    def run(self, faults: Iterable[Fault]) -> None:
        """Try what has not been tried, and tell how far it is."""
        todo = [
            (fault, number)
            for fault in faults
            for number in range(fault.trials)
            if (fault.name, number) not in self.outcomes
        ]
        for place, (fault, number) in enumerate(todo, 1):
            begun = time.monotonic()
            outcome = fault.run(number)
            self._seconds.setdefault(fault.name, []).append(time.monotonic() - begun)
            self.outcomes[fault.name, number] = outcome
            with self._path.open("a") as file:
                file.write(self._line(fault.name, number, outcome) + "\n")
            if outcome.verdict != GOOD:
                self._say(f"{fault.name} {number}: {outcome.verdict.upper()}: {outcome.told}")
            if number + 1 == fault.trials or place % 20 == 0:
                left = clock(self._left(todo[place:]))
                self._say(f"{fault.name}: {number + 1}/{fault.trials}; about {left} left")

    def _left(self, todo: list[tuple[Fault, int]]) -> float:
        """Seconds: a fault that has not been tried yet counts as the others."""
        each = {name: sum(took) / len(took) for name, took in self._seconds.items()}
        usual = sum(each.values()) / len(each)
        return sum((each.get(fault.name, usual) for fault, _ in todo), 0.0)

    @staticmethod
    def _line(name: str, number: int, outcome: Outcome) -> str:
        return json.dumps({"fault": name, "trial": number, **outcome._asdict()})

    def count(self, fault: Fault) -> dict[str, int]:
        """Verdict -> number of trials of a fault."""
        found = [self.outcomes[fault.name, number].verdict for number in range(fault.trials)]
        return {verdict: found.count(verdict) for verdict in (GOOD, SILENT, LOST)}


def table(faults: list[Fault], journal: Journal) -> str:
    """The rows of all faults, and their sum."""
    rows = [("fault", "trials", "detected or recovered", "silent"), ("---",) * 4]
    sums = [0, 0, 0]
    for fault in faults:
        if fault.why_not:
            rows.append((fault.name, f"not run: {fault.why_not}", "", ""))
            continue
        counted = journal.count(fault)
        numbers = [fault.trials, counted[GOOD], counted[SILENT]]
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        rows.append((fault.name, *(f"{number:,}" for number in numbers)))
    rows.append(("all", *(f"{number:,}" for number in sums)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_table(readme: Path, text: str) -> None:
    """Replace what stands between the marks of a README; raises InputError where it has none."""
    held = readme.read_text()
    before, begin, rest = held.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{readme}: the table needs the marks {BEGIN} and {END} around it")
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
