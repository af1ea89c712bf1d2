"""How long from the start of a process to its first finished step, with and without kept programs?

    python -m experiments.benchmarks.startup --json PATH

Whole processes that do what `lmjax train NAME` does, up to a few steps, which are waited for one by
one. Cold: the directory of compiled programs is empty; warm: a process before it filled it. The two
take turns; the ratio is taken within each pair, and two cold ones beside each other give its noise.
Beside them: what importing jax, flax and optax alone takes, and `lmjax --help`. In each process
programs compiled after step 2 are counted, and the digest of the state after the last step must be
the same for all: a program that was kept gives the bits of a new one.

Expected: warm at most 35 % of cold; nothing compiled after step 2; --help in less than a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from etils import epath

from experiments.benchmarks.turns import doubt, ratios, spread, take_turns

NAMES = ("char_gpt", "digits_fcn")
STEPS = 8  # of each process
SETTLED = 2  # the step after which nothing may be compiled
COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX's event for each program
IMPORTS = [sys.executable, "-c", "import jax, flax, optax"]
HELP = [sys.executable, "-m", "lmjax", "--help"]


class Enough(Exception):
    """The process has made its steps."""


def watch(name: str, begun: float) -> None:
    """In a child: train, wait for each step, and print what was seen after the last."""
    import jax

    from lmjax import cli, train
    from lmjax.state import state_digest

    compile_program = train.compile_program
    seen: dict[str, Any] = {"compiled": [0]}  # programs, up to each step

    def count(event: str, duration_secs: float, **_: Any) -> None:
        seen["compiled"][-1] += event == COMPILED

    def watched(*args: Any) -> Any:
        program = compile_program(*args)

        def step(*args: Any) -> Any:
            state, metrics = jax.block_until_ready(program.train_step(*args))
            seen.setdefault("seconds", time.time() - begun)
            if len(seen["compiled"]) == STEPS:
                seen["digest"] = state_digest(state)
                raise Enough
            seen["compiled"].append(0)
            return state, metrics

        return program._replace(train_step=step)

    jax.monitoring.register_event_duration_secs_listener(count)  # pyright: ignore[reportArgumentType]
    train.compile_program = watched
    with tempfile.TemporaryDirectory() as folder:
        try:
            cli.main(["train", name, "--workdir", f"{folder}/run"])
        except Enough:
            print(json.dumps(seen))


def start(name: str, cache: str) -> dict[str, Any]:
    """What a process saw whose compiled programs are kept in `cache`."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = cache
    words = [sys.executable, "-m", "experiments.benchmarks.startup"]
    words += ["--watch", name, "--begun", repr(time.time())]
    told = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(told.stdout.splitlines()[-1])


def whole(command: list[str]) -> float:
    """Seconds of a process from start to end."""
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def measure(name: str, pairs: int) -> dict[str, Any]:
    """The numbers of one experiment."""
    seen: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as kept:
        size_before = start(name, kept)["compiled"][0]

        def run(cache: str) -> float:
            seen.append(start(name, cache))
            return seen[-1]["seconds"]

        def cold() -> float:
            with tempfile.TemporaryDirectory() as empty:
                return run(empty)

        turns = take_turns(lambda: run(kept), cold, pairs)
        size = sum(path.stat().st_size for path in Path(kept).rglob("*") if path.is_file())
    if len({each["digest"] for each in seen}) > 1:
        raise RuntimeError(f"{name}: kept programs and new ones give different bits")
    return {
        "warm_seconds": spread(turns.ours),
        "cold_seconds": spread(turns.other),
        "ratio": ratios(turns.ours, turns.other),
        "noise": ratios(turns.again, turns.other),
        "programs": size_before,
        "kept_bytes": size,
        "compiled_after_step_2": max(sum(each["compiled"][SETTLED:]) for each in seen),
        "digest": seen[0]["digest"],
        "pairs": pairs,
    }


def tell(name: str, result: dict[str, Any]) -> str:
    """One line for a reader."""
    ratio, noise = result["ratio"], result["noise"]
    return (
        f"{name}: first step after {result['cold_seconds']['median']:.2f} s cold and "
        f"{result['warm_seconds']['median']:.2f} s warm, {100 * ratio['median']:.0f} % "
        f"(quartiles {100 * ratio['low']:.0f} to {100 * ratio['high']:.0f}; cold beside cold "
        f"{100 * noise['median']:.0f}); {result['compiled_after_step_2']} programs compiled after "
        f"step {SETTLED}; the same bits; {result['kept_bytes'] / 1e6:.1f} MB kept"
        f"{doubt(noise)}"
    )


def main() -> None:
    """Measure every experiment, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description="From the start of a process to its first step.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of processes per experiment")
    parser.add_argument("--watch", help="for the processes that this one starts")
    parser.add_argument("--begun", type=float, help="for the processes that this one starts")
    given = parser.parse_args()
    if given.watch:
        watch(given.watch, given.begun)
        return
    results: dict[str, Any] = {
        "python": sys.version.split()[0],
        "imports_seconds": spread([whole(IMPORTS) for _ in range(given.pairs)]),
        "help_seconds": spread([whole(HELP) for _ in range(given.pairs)]),
        "experiments": {},
    }
    imports, told = results["imports_seconds"]["median"], results["help_seconds"]["median"]
    print(f"import jax, flax, optax: {imports:.2f} s; lmjax --help: {told:.2f} s", flush=True)
    for name in NAMES:
        result = results["experiments"][name] = measure(name, given.pairs)
        print(tell(name, result), flush=True)
    if given.json:
        epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
