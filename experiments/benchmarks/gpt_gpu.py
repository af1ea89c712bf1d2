"""How fast is a GPT's training step on one GPU beside PyTorch's, and what does its time go into?

    python -m experiments.benchmarks.gpt_gpu --json PATH [--rows 124m] [--seconds 450]

124m  GPT-2, 12 layers, width 768, sequences of 1,024 tokens, table padded to 50,304 rows
1.3b  24 layers, width 2,048, heads of 128, sequences of 1,024 tokens, the same table

Both in bfloat16 beside a float32 master, by AdamW, one micro-batch a step. Ours is lmjax's compiled
step as a run has it (all metrics), configured by an Experiment alone; the peer (torch_gpt.py, under
--peer-python, by default this interpreter where it has torch) is PyTorch by its best practice. Each
finds its own best batch and settings by a short search of its own (gpt_sweep.py) with the device to
itself. Losses of their first 20 steps, from the same weights on the same tokens, must fall alike
(0.02 apart at most), or the benchmark stops: speed is never bought by changed maths. Then the two
take turns, block by block, each block from the start weights: the ratio of tokens per second is
taken within each pair; two blocks of the peer beside each other give its noise.

Every process is a child of this one. JAX takes its memory at its start and gives none back, so for
the turns it gets the share that its best point needs, if the peer's fits beside it; if not, each
block of ours is a new process (its program comes from the cache) and the peer gives back its memory
after each of its own blocks.

Beside that: the device's ceilings (a large product, a copy) and the step's parts at them
(gpt_roofline.py); what the compiled step must show (gpt_hlo.py: cuDNN's kernels, donation, no
float32 logits, no float32 products); a profile; and the parts of gpt_parts.py: the gradient of a
look-up, attention alone, equal bits with and without deterministic operations.

It ends within --seconds: each stage gets a share, and what there was no time for is told under
`cut`. The JSON is written after every stage. --tiny runs all of it at toy sizes, on any device.

Expected, on one H100 or H200: 124m 1.10 times the peer and 500,000 tokens/s (40.6 % MFU, causal);
1.3b 1.05 times the peer and 50 %; cuDNN's attention at least 2 times XLA's at 4,096 tokens; bits
equal in all processes with deterministic operations. None of it has been measured yet.
"""

import argparse
import importlib.util
import sys
import tempfile
from typing import Any

from experiments.benchmarks import gpt_report
from experiments.benchmarks.gpt_bench import (
    EXPECTED,
    Bench,
    Exported,
    Unlike,
    alone,
    beside_peer,
    search_ours,
)
from experiments.benchmarks.gpt_rows import LOSSES, rows
from experiments.benchmarks.gpt_sweep import Budget, Tried

PARTS = ("ceilings", "embedding", "attention", "bits")
PARTS_SHARE, SEARCH_SHARE = 0.3, 0.4  # of what is left at their start
DETERMINISTIC = {
    "default": "",
    "deterministic": "--xla_gpu_deterministic_ops=true",  # also without autotuning
    "no atomics": "--xla_gpu_exclude_nondeterministic_ops=true",  # with autotuning
}
FLUSHED = "--xla_gpu_ftz=true"  # some versions make slow atomics of float32 sums without it


def run_row(bench: Bench, name: str, budget: Budget) -> None:
    """All of one comparison, into the results."""
    row = rows(bench.tiny)[name]
    result: dict[str, Any] = {}
    bench.results["rows"][name] = result
    bench.say(f"{name}: our search")
    ours = search_ours(bench, name, row, budget.share(SEARCH_SHARE))
    result["ours"] = ours._asdict()
    bench.save()
    if ours.best is None:
        raise RuntimeError("no point could run")
    for one in ours.tried:
        wrong = one["checks"]["wrong"] if "checks" in one else []
        bench.results["wrong"] += [f"{name} {one['point']}: {what}" for what in wrong]
    if bench.peer_python is not None:
        with tempfile.TemporaryDirectory() as folder:
            files = bench.ask("export", row=name, folder=folder)
            bench.free()
            beside_peer(bench, name, row, budget, ours, Exported(files, folder), result)
    if bench.peer_python is None or budget.allows(20, f"{name} profile and roofline"):
        explain(bench, name, ours.best, result)


def explain(bench: Bench, name: str, best: Tried, result: dict[str, Any]) -> None:
    """Where the time of our best step goes: a profile, and its parts at the ceilings."""
    bench.free()  # what a new process uses at most is the step's
    bench.ask("prepare", row=name, point=best["point"])
    if bench.peer_python is None:
        bench.stage(f"{name} alone", result, "turns", lambda: alone(bench, best))
    with tempfile.TemporaryDirectory() as folder:
        bench.stage(
            f"{name} profile", result, "profile", lambda: bench.ask("profile", folder=folder)
        )
    parts = bench.results["parts"]
    if "ceilings" not in parts:
        return
    measured = {
        "step_ms": best["step_ms"],
        "parameters": best["parameters"],
        "square": parts["ceilings"]["square_flops_per_second"],
        "bandwidth": parts["ceilings"]["copy_bytes_per_second"],
        "seconds": bench.part_seconds,
    }
    asked = {"row": name, "point": best["point"], **measured}
    bench.stage(f"{name} roofline", result, "roofline", lambda: bench.ask("roofline", **asked))


def run_parts(bench: Bench, wanted: list[str], budget: Budget) -> None:
    """The parts of gpt_parts.py; the ceilings always, since the rows need them."""
    parts = bench.results["parts"]
    bench.stage("device", bench.results, "device", lambda: bench.ask("describe"))
    bench.stage("ceilings", parts, "ceilings", lambda: bench.ask("ceilings"))
    if "attention" in wanted and budget.allows(15, "attention"):
        bench.stage("attention", parts, "attention", lambda: bench.ask("attention"))
    if "embedding" in wanted and budget.allows(15, "embedding"):
        parts["embedding"] = {}
        bench.stage("embedding", parts["embedding"], "default", lambda: bench.ask("embedding"))
    on_gpu = "device" in bench.results and bench.results["device"]["platform"] == "gpu"
    if "embedding" in parts and on_gpu and budget.allows(20, f"embedding {FLUSHED}"):
        bench.free()
        bench.kept = bench.ours(flags=FLUSHED)
        bench.stage("embedding", parts["embedding"], FLUSHED, lambda: bench.ask("embedding"))
        bench.free()
    if "bits" in wanted:
        parts["bits"] = {}
        for name, flags in list(DETERMINISTIC.items())[: 1 if bench.tiny else None]:
            if budget.allows(30, f"bits {name}"):
                bench.free()
                bench.stage(f"bits {name}", parts["bits"], name, lambda f=flags: bits(bench, f))


def bits(bench: Bench, flags: str) -> dict[str, Any]:
    """Whether the same steps give the same bits, in one process and in two that compile anew."""
    first, second = (bench.ours(0.3, flags, JAX_COMPILATION_CACHE_DIR="") for _ in range(2))
    asked = {"do": "bits", "tiny": bench.tiny, "steps": LOSSES}
    try:
        one, two = (worker.ask(bench.patience, **asked) for worker in (first, second))
    finally:
        first.close()
        second.close()
    known = bench.results["parts"]["bits"]
    usual = known["default"]["step_ms"] if "default" in known else one["step_ms"]
    return {
        "flags": flags,
        "steps": LOSSES,
        "same_process": one["digests"][0] == one["digests"][1],
        "fresh_process": one["digests"][0] == two["digests"][0],
        "told_apart": one["other_seed"] not in one["digests"],  # or equality would say nothing
        "step_ms": one["step_ms"],
        "cost": one["step_ms"] / usual,
    }


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def main(words: list[str] | None = None) -> int:
    """Measure what was asked for; 1 where something failed or is not as it must be."""
    parser = argparse.ArgumentParser(
        description="A GPT's training step beside PyTorch's, on one GPU."
    )
    parser.add_argument("--json", required=True, help="where to write the numbers; a log beside it")
    parser.add_argument("--peer-python", default=sys.executable if has_torch() else None)
    parser.add_argument("--rows", nargs="*", choices=list(EXPECTED), default=list(EXPECTED))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=450.0, help="for all of it")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on any device")
    given = parser.parse_args(words)
    bench = Bench(given)
    stopped = ""
    run_parts(bench, given.parts, bench.budget.share(PARTS_SHARE if given.rows else 1.0))
    for number, name in enumerate(given.rows):
        try:
            run_row(bench, name, bench.budget.share(1 / (len(given.rows) - number)))
        except RuntimeError as error:
            bench.results["failed"][name] = str(error)
        except Unlike as error:
            bench.results["failed"][name] = stopped = str(error)
            break
    bench.free()
    bench.results["complete"] = not stopped and not bench.results["cut"]
    bench.save()
    print("\n".join(gpt_report.lines(bench.results)), flush=True)
    if stopped:
        print(f"STOPPED: {stopped}", flush=True)
    return 1 if bench.results["failed"] or bench.results["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
