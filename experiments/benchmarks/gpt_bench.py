"""Both sides of gpt_gpu.py in turn: their searches, their losses, their blocks."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.gpt_rows import LOSSES, PeerPoint, Point, Row, torch_settings
from experiments.benchmarks.gpt_sweep import Budget, Sweep, Tried, Worker, descend
from experiments.benchmarks.turns import ratios, spread, take_turns

TOLERANCE = 0.02  # nats between two losses: bfloat16 rounds otherwise in another order
EXPECTED = {"124m": 1.10, "1.3b": 1.05}  # times the peer's speed
PAIRS, FEWEST, PAIR_SECONDS = 5, 3, 20
ALONE = 0.92  # of the device's memory, for our process where no other needs any
GRACE = 30  # seconds beyond the budget that a question already asked may take
ROOM, SLACK = 1.5e9, 1.15  # bytes of a CUDA context; what an allocator needs above what it holds
PEER_SHARE = 0.5  # of what a row has left, for the peer's search


class Unlike(Exception):
    """The two sides do not compute the same."""


class Bench:
    """What was asked for, the time that is left, and the results so far."""

    def __init__(self, given: argparse.Namespace):
        self.tiny: bool = given.tiny
        self.peer_python: str | None = given.peer_python or None  # "" = none
        self.json = Path(given.json)
        self.log = self.json.with_suffix(".log")
        self.begun = time.monotonic()
        self.kept: Worker | None = None
        self.budget = Budget(given.seconds)
        self.point_seconds, self.part_seconds = (0.05, 0.01) if self.tiny else (2.0, 0.3)
        self.results: dict[str, Any] = {
            "seconds": given.seconds,
            "tiny": given.tiny,
            "parts": {},
            "rows": {},
            "cut": self.budget.cut,
            "failed": {},
            "wrong": [],
            "complete": False,
        }

    def save(self) -> None:
        self.results["took_s"] = time.monotonic() - self.begun
        self.json.write_text(json.dumps(self.results, indent=1) + "\n")

    def say(self, what: str) -> None:
        print(f"[{time.monotonic() - self.begun:4.0f} s] {what}", flush=True)

    def stage(self, name: str, into: dict[str, Any], key: str, made: Callable[[], Any]) -> None:
        """Put what is made into the results. That one stage fails is told, and no other waits."""
        self.say(name)
        try:
            into[key] = made()
        except RuntimeError as error:
            self.results["failed"][name] = str(error)
        self.save()

    @property
    def patience(self) -> float:
        """Seconds to wait for an answer."""
        return max(0.0, self.budget.left) + GRACE

    def worker(self) -> Worker:
        """Our process that has the device to itself: the one there is, or a new one."""
        if self.kept is None or not self.kept.lives:
            self.free()
            self.kept = self.ours()
        return self.kept

    def free(self) -> None:
        """Give the device back."""
        if self.kept is not None:
            self.kept.close()
        self.kept = None

    def ask(self, do: str, **question: Any) -> Any:
        """Of that process."""
        return self.worker().ask(self.patience, do=do, tiny=self.tiny, **question)

    def ours(self, memory: float = ALONE, flags: str = "", **environment: str) -> Worker:
        """A process of ours with a share of the device's memory."""
        environment |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{memory:.3f}"}
        given = [os.environ["XLA_FLAGS"]] if "XLA_FLAGS" in os.environ else []
        environment |= {"XLA_FLAGS": " ".join([*given, flags])}
        command = [sys.executable, "-m", "experiments.benchmarks.gpt_ours"]
        return Worker(command, self.log, environment)

    def peer(self) -> Worker:
        assert self.peer_python is not None
        command = [self.peer_python, "-m", "experiments.benchmarks.torch_gpt"]
        return Worker(command, self.log)


def search_ours(bench: Bench, name: str, row: Row, budget: Budget) -> Sweep:
    """What our search found, in a process that has the device to itself."""

    def attempt(point: Point) -> Tried:
        asked = {"row": name, "point": point._asdict(), "seconds": bench.point_seconds}
        try:
            return bench.ask("try", **asked)
        except RuntimeError as error:
            return {"refused": str(error)[-1000:]}

    return descend(row.start, row.moves, row.most, attempt, budget, f"{name} ours")


def search_peer(bench: Bench, name: str, row: Row, budget: Budget, peer: Worker) -> Sweep:
    """What the peer's search found; it has loaded its weights already."""

    def attempt(point: PeerPoint) -> Tried:
        return try_peer(bench, peer, point)

    return descend(row.peer_start, row.peer_moves, row.most, attempt, budget, f"{name} peer")


def try_peer(bench: Bench, peer: Worker, point: PeerPoint) -> Tried:
    """Rate and losses of a point of the peer's."""
    asked = {"point": point._asdict(), "losses": LOSSES, "seconds": bench.point_seconds}
    try:
        return peer.ask(bench.patience, do="try", **asked)
    except RuntimeError as error:
        return {"refused": str(error)[-1000:]}


def compare_losses(bench: Bench, ours: Sweep, peer: Sweep, worker: Worker) -> dict[str, Any]:
    """That losses fall alike, at our best batch if the peer can run it, else at a common one."""
    assert ours.best is not None
    theirs = {one["point"]["batch"]: one for one in peer.tried if "losses" in one}
    batch = ours.best["point"]["batch"]
    if batch not in theirs:
        point = PeerPoint(batch)
        one = try_peer(bench, worker, point)
        if "losses" in one:
            theirs[batch] = one
    mine = [one for one in ours.tried if "losses" in one and one["point"]["batch"] in theirs]
    if not mine:
        raise RuntimeError("no batch that both sides could run")
    if batch not in theirs:
        batch = mine[-1]["point"]["batch"]
    right = theirs[batch]["losses"]
    same = [one["losses"] for one in mine if one["point"]["batch"] == batch]
    apart = max(abs(a - b) for losses in same for a, b in zip(losses, right, strict=True))
    told = {
        "batch": batch,
        "steps": LOSSES,
        "tolerance": TOLERANCE,
        "difference": apart,
        "ours": [same[-1][0], same[-1][-1]],
        "peer": [right[0], right[-1]],
        "all_ours": same,
        "all_peer": right,
    }
    fell = all(losses[-1] < losses[0] for losses in [*same, right])
    return {**told, "alike": fell and apart <= TOLERANCE}


def shared_memory(ours: float, peer: float, total: float | None) -> float | None:
    """The share of the device's memory for our process, where the peer's fits beside it.

    1 where nobody knows how much there is; None where both do not fit.
    """
    if total is None:
        return 1.0
    wanted = (SLACK * ours + ROOM) / total
    return wanted if wanted * total + SLACK * peer + ROOM <= total else None


def in_turns(
    bench: Bench, name: str, ours: Tried, peer: Tried, worker: Worker, total: float | None
) -> dict[str, Any]:
    """Both sides at their best, side by side in the device's memory if they fit."""
    needed = peer["peak_bytes"]["reserved"] if peer["peak_bytes"] else 0
    memory = shared_memory(ours["memory_bytes"]["peak"], needed, total)
    worker.ask(bench.patience, do="prepare", point=peer["point"])
    if memory is not None:
        try:
            return take_blocks(bench, name, ours, worker, memory)
        except RuntimeError as error:
            bench.results["cut"].append(f"{name} together in memory ({error})")
    return take_blocks(bench, name, ours, worker, None)


def take_blocks(
    bench: Bench, name: str, ours: Tried, worker: Worker, memory: float | None
) -> dict[str, Any]:
    """Blocks of both, in turns; without a share of the memory, each has it all in its own."""
    blocks: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    worker.ask(bench.patience, do="release")
    resident = None if memory is None else prepared(bench, name, ours, memory)

    def ours_block() -> float:
        one = resident or prepared(bench, name, ours, ALONE)
        asked = {"tiny": bench.tiny, "seconds": bench.point_seconds}
        blocks["ours"].append(one.ask(bench.patience, do="block", **asked))
        if resident is None:
            one.close()
        return blocks["ours"][-1]["seconds_per_token"]

    def peer_block() -> float:
        asked = {"seconds": bench.point_seconds, "release": resident is None}
        blocks["peer"].append(worker.ask(bench.patience, do="block", **asked))
        return blocks["peer"][-1]["seconds_per_token"]

    pairs = PAIRS if bench.budget.left > PAIR_SECONDS * PAIRS and not bench.tiny else FEWEST
    try:
        turns = take_turns(ours_block, peer_block, pairs)
    finally:
        if resident is not None:
            resident.close()
    most = [one["peak_bytes"]["allocated"] for one in blocks["peer"] if one["peak_bytes"]]
    return {
        "resident_together": resident is not None,
        "pairs": pairs,
        "ours": side(turns.ours, ours, [one["peak_bytes"] for one in blocks["ours"]]),
        "peer": side(turns.other, ours, most),
        "ratio": ratios(turns.other, turns.ours),
        "noise": ratios(turns.again, turns.other),
        "expected": EXPECTED[name],
    }


def prepared(bench: Bench, name: str, best: Tried, memory: float) -> Worker:
    """A process of ours that has compiled a point."""
    worker = bench.ours(memory)
    row = {"row": name, "tiny": bench.tiny}
    worker.ask(bench.patience, do="prepare", **row, point=best["point"])
    return worker


def side(seconds: list[float], best: Tried, peaks: list[Any]) -> dict[str, Any]:
    """Rate, MFU at the median and memory, from the seconds of a token in each block.

    The FLOP of a token are the model's, so the peer's MFU follows from what is known of ours.
    """
    rates = spread([1 / each for each in seconds])
    scale = rates["median"] / best["tokens_per_second"]
    used = [peak for peak in peaks if peak is not None]
    return {
        "tokens_per_second": rates,
        "mfu": {convention: share * scale for convention, share in best["mfu"].items()},
        "peak_bytes": max(used) if used else None,
    }


def alone(bench: Bench, best: Tried) -> dict[str, Any]:
    """Our side's blocks, where there is no peer; its process has prepared the point."""
    blocks = [bench.ask("block", seconds=bench.point_seconds) for _ in range(FEWEST)]
    taken = [one["seconds_per_token"] for one in blocks]
    return {"pairs": 0, "ours": side(taken, best, [one["peak_bytes"] for one in blocks])}


class Exported(NamedTuple):
    """What the peer starts from."""

    files: dict[str, str]  # of parameters, by path
    folder: str  # of them and of tokens.npy


def beside_peer(
    bench: Bench,
    name: str,
    row: Row,
    budget: Budget,
    ours: Sweep,
    exported: Exported,
    result: dict[str, Any],
) -> None:
    """The peer's search, the comparison of losses, and the turns."""
    assert ours.best is not None
    peer = bench.peer()
    try:
        told = peer.ask(bench.patience, do="describe")
        bench.results["peer"] = told
        loaded = peer.ask(
            bench.patience,
            do="load",
            files=exported.files,
            tokens=f"{exported.folder}/tokens.npy",
            settings=torch_settings(row),
            compiled=not bench.tiny,
        )
        if loaded["parameters"] != ours.best["parameters"]:
            raise Unlike(f"{loaded['parameters']} parameters, not {ours.best['parameters']}")
        bench.say(f"{name}: the peer's search")
        found = search_peer(bench, name, row, budget.share(PEER_SHARE), peer)
        result["peer"] = found._asdict()
        bench.save()
        if found.best is None:
            raise RuntimeError("the peer could run no point")
        result["losses"] = compare_losses(bench, ours, found, peer)
        if not result["losses"]["alike"]:
            raise Unlike(f"the losses of {name} do not fall alike: {result['losses']}")
        mine, best, total = ours.best, found.best, told["memory_bytes"]
        bench.stage(
            f"{name} in turns",
            result,
            "turns",
            lambda: in_turns(bench, name, mine, best, peer, total),
        )
    finally:
        peer.close()
