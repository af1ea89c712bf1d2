"""What does it cost a save that its files are hashed?

    python -m experiments.benchmarks.seal_cost --json PATH --pairs 9

A whole save of a GPT's state with AdamW (lmjax.checkpoint.Checkpoints, from the call until it is
committed, as a run makes it), beside the same save whose files nobody hashes: each is brought to
the disk and named in the seal all the same. They take turns, so that what else the machine does
meets both; the ratio is taken within each pair, and two equal saves beside each other give its
noise. The state is random numbers, which do not compress. `hash` is the time of hashing alone, in
the threads of lmjax/seal.py, of files that were just written.

Goal: with its digests a save takes at most 1.15 times as long. On 2 idle cores of an AMD EPYC
(2026-11-26) it took 1.01 times as long at 125M and 1.13 times at 30M; 1.42 with other work.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from etils import epath

from experiments.benchmarks.checkpoint_stall import RECORD, SIZES, Training, milliseconds
from experiments.benchmarks.turns import doubt, ratios, spread, take_turns
from lmjax import seal
from lmjax.checkpoint import Checkpoints
from lmjax.fingerprint import Fingerprint
from lmjax.state import parameter_count

GOAL = 1.15


class Saves:
    """Saves of one state, with digests or without."""

    def __init__(self, training: Training, folder: epath.Path):
        self.training = training
        self.checkpoints = Checkpoints(folder, 1)
        self.fingerprint = Fingerprint(training.abstract)  # compiled once, as a run has it
        self.number = 0
        self.cpu: dict[bool, list[float]] = {True: [], False: []}  # hashed or not -> seconds

    def hashed(self) -> float:
        """Seconds until a save is committed."""
        return self._save(True)

    def unhashed(self) -> float:
        """Seconds of one whose files are not read."""
        real = seal.sha256
        seal.sha256 = lambda file: "0" * 64
        try:
            return self._save(False)
        finally:
            seal.sha256 = real

    def _save(self, hashed: bool) -> float:
        begun, busy = time.perf_counter(), time.process_time()
        self.number += 1
        self.checkpoints.save(self.number, self.training.state, RECORD, self.fingerprint)
        self.checkpoints.wait()
        self.cpu[hashed].append(time.process_time() - busy)
        return time.perf_counter() - begun

    def hash(self) -> float:
        """Seconds of hashing the newest, which must be what was saved."""
        folder = Path(self.checkpoints.directory / str(self.number))
        begun = time.perf_counter()
        seal.verify(folder)
        return time.perf_counter() - begun


def measure(name: str, pairs: int, seconds: float) -> dict[str, Any]:
    """The numbers of one size."""
    training = Training(SIZES[name])
    with tempfile.TemporaryDirectory() as path:
        saves = Saves(training, epath.Path(path) / "checkpoints")
        for _ in range(2):
            saves.unhashed()
        saves.cpu[False].clear()
        turns = take_turns(saves.hashed, saves.unhashed, pairs, seconds)
        files = [x.stat().st_size for x in Path(path).rglob("*") if x.is_file()]
        cpu = {hashed: spread([1e3 * x for x in each]) for hashed, each in saves.cpu.items()}
        saves.hashed()
        hashes = [saves.hash() for _ in range(3)]
        saves.checkpoints.close()
    return {
        "parameters": parameter_count(training.abstract.params),
        "megabytes": sum(x.nbytes for x in jax.tree.leaves(training.state)) / 1e6,
        "files": len(files),
        "largest_file_megabytes": max(files) / 1e6,
        "save_ms": milliseconds(turns.ours),
        "unhashed_ms": milliseconds(turns.other),
        "hash_ms": milliseconds(hashes),
        "save_cpu_ms": cpu[True],
        "unhashed_cpu_ms": cpu[False],
        "ratio": ratios(turns.ours, turns.other),
        "noise": ratios(turns.again, turns.other),
        "pairs": len(turns.ours),
    }


def tell(name: str, result: dict[str, Any]) -> str:
    """Some lines for a reader."""

    def span(key: str, digits: int) -> str:
        low, middle, high = (f"{result[key][x]:.{digits}f}" for x in ("low", "median", "high"))
        return f"{middle} (quartiles {low} to {high})"

    met = "met" if result["ratio"]["median"] <= GOAL else "MISSED"
    return (
        f"{name}: {result['megabytes']:.0f} MB in {result['files']} files, the largest of "
        f"{result['largest_file_megabytes']:.0f} MB; {result['pairs']} pairs\n"
        f"  a save takes {span('save_ms', 0)} ms, unhashed {span('unhashed_ms', 0)} ms, "
        f"hashing {span('hash_ms', 0)} ms\n"
        f"  its processor time {span('save_cpu_ms', 0)}, unhashed {span('unhashed_cpu_ms', 0)} ms\n"
        f"  hashed over unhashed {span('ratio', 3)}, unhashed over unhashed {span('noise', 3)}"
        f"{doubt(result['noise'])}; goal {GOAL}: {met}"
    )


def main() -> None:
    """Measure every size, print it, write the JSON after each."""
    parser = argparse.ArgumentParser(description="What the digests of a save cost.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of saves, at most")
    parser.add_argument("--seconds", type=float, default=600, help="after which no pair begins")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    given = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of each wait, which we ask for
    results: dict[str, Any] = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg(),
        "sizes": {},
    }
    for name in given.sizes:
        result = results["sizes"][name] = measure(name, given.pairs, given.seconds)
        print(tell(name, result), flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
