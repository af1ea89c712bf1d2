"""Does a run survive its machine, and does it ever go on with other bits without a word?

    python -m experiments.faults --json PATH [--readme README.md] [--quick]

Files of a checkpoint are damaged, a save is killed or refused by the disk at each call that changes
a file, and whole runs are killed at random and starved of disk. Each trial ends as one of
  detected or recovered: the damaged step is named and the newest whole one is taken, with its bits;
    a run that goes on ends with the digest, the metrics and the trace of one that was never broken;
  silent: other bits, or damage that nobody named;
  neither: a traceback, a hang, a run that cannot go on.

Controls: without its seal and the fingerprints of its leaves, a checkpoint with a flipped bit does
restore to other bits in silence; and a run of another seed ends with another digest.

Trials are kept in PATH's neighbour .jsonl as they end: the same command goes on where it was
killed. What a kill leaves is what the operating system has been given; a power cut, which also
loses what that has not written yet, is not tried.

Expected: all detected or recovered, 0 silent.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax

import lmjax
from experiments.faults.chains import Chains
from experiments.faults.damages import Damages
from experiments.faults.journal import (
    BEGIN,
    END,
    GOOD,
    LOST,
    SILENT,
    Fault,
    Journal,
    table,
    write_table,
)
from experiments.faults.saves import Saves
from experiments.faults.subject import Reader, prepare_children
from experiments.faults.zygote import Worker
from lmjax.errors import InputError, RunError


class Size(NamedTuple):
    """How much is tried."""

    flips: int
    control: int  # flips without verification
    every: int  # call of a save
    chains: int


WHOLE, QUICK = Size(1000, 60, 1, 10), Size(40, 20, 25, 1)


def main() -> int:
    """Try all faults; returns 0, 1 where one was not survived, 2 for bad input."""
    parser = argparse.ArgumentParser(description="What becomes of a run when its machine fails.")
    parser.add_argument("--json", required=True, help="where to write what was found")
    parser.add_argument("--readme", help=f"a file between whose marks {BEGIN} {END} the table goes")
    parser.add_argument("--quick", action="store_true", help="a small part of each fault")
    parser.add_argument("--seed", type=int, default=0, help="of the random places and moments")
    given = parser.parse_args()
    try:
        return run(given)
    except InputError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1


def run(given: argparse.Namespace) -> int:
    """What `main` does with its words."""
    path = Path(given.json)
    if not os.access(path.parent, os.W_OK) or path.is_dir():
        raise InputError(f"--json {path}: not writable")
    if given.readme and BEGIN not in Path(given.readme).read_text():
        raise InputError(f"{given.readme}: the table needs the marks {BEGIN} and {END} around it")

    def say(line: str) -> None:
        print(line, flush=True)

    settings = {"quick": given.quick, "seed": given.seed, "code": code_digest()}
    journal = Journal(path.with_suffix(".jsonl"), settings, say)
    scratch = Path(tempfile.mkdtemp(prefix="faults-"))
    prepare_children(scratch / "programs")
    chains = Chains(scratch, given.seed)
    try:
        faults, controls = try_all(
            QUICK if given.quick else WHOLE, given.seed, scratch, chains, journal
        )
    finally:
        chains.close()
        shutil.rmtree(scratch, ignore_errors=True)
    text = table(faults, journal)
    say(f"{text}\n\n{controls['told']}")
    write_json(path, faults, journal, controls)
    if given.readme:
        write_table(Path(given.readme), text)
    tried = sum(fault.trials for fault in faults)
    good = sum(journal.count(fault)[GOOD] for fault in faults)
    say(f"{good} of {tried} detected or recovered")
    return 0 if good == tried and controls["holds"] else 1


def code_digest() -> str:
    """Of lmjax and of this program: trials of other code say nothing of this one."""
    found = hashlib.sha256()
    for folder in (Path(lmjax.__file__).parent, Path(__file__).parent):
        for file in sorted(folder.rglob("*.py")):
            found.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def try_all(
    size: Size, seed: int, scratch: Path, chains: Chains, journal: Journal
) -> tuple[list[Fault], dict[str, Any]]:
    """All faults, each tried so often as it says, and what the controls showed."""
    reader = Worker(scratch / "reader.log", Reader)
    digests = reader("make_run", str(scratch / "run"))
    damages = Damages(reader, scratch / "run", digests, seed)
    faults = damages.faults(size.flips, size.every > 1)
    *saves, last = Saves(reader, scratch).faults(size.every)
    faults += [*saves, chains.fault(size.chains), last]
    journal.run(faults)
    reader.close()
    trusting = Worker(scratch / "trusting.log", Reader, True)
    blind = Damages(trusting, scratch / "run", digests, seed).faults(size.control, True)[0]
    control = blind._replace(name="control: one bit flipped, nothing verified")
    found = [control.run(number).verdict for number in range(control.trials)]
    trusting.close()
    seen = chains.sees_another_seed()
    told = (
        f"Controls: without seal and fingerprints {found.count(SILENT)} of {control.trials} "
        f"flipped bits were silent; a run of another seed is {'' if seen else 'NOT '}told apart."
    )
    silent = found.count(SILENT)
    return faults, {"told": told, "silent": silent, "holds": silent > 0 and seen}


def write_json(path: Path, faults: list[Fault], journal: Journal, controls: dict[str, Any]) -> None:
    """Every fault with its counts and what is not good, beside the machine."""
    rows = []
    for fault in faults:
        outcomes = {n: journal.outcomes[fault.name, n] for n in range(fault.trials)}
        bad = {n: outcome._asdict() for n, outcome in outcomes.items() if outcome.verdict != GOOD}
        counted = journal.count(fault)
        rows.append(
            {"fault": fault.name, "trials": fault.trials, "not_run": fault.why_not}
            | {"good": counted[GOOD], "silent": counted[SILENT], "lost": counted[LOST], "bad": bad}
        )
    held = {
        "faults": rows,
        "controls": controls,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    path.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
