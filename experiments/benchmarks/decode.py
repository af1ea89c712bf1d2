"""How fast are tokens drawn on a CPU beside transformers' `generate`, by the same model?

    python -m experiments.benchmarks.decode --json PATH --peer-python PATH

`lmjax.generate`, greedy, with its cache of keys and values, beside `generate` of transformers,
greedy with use_cache, in PyTorch eager with as many threads as cores, in a process of its own under
--peer-python (an interpreter with torch and transformers; without it, ours alone is measured). The
model has GPT-2's layout and drawn weights; the peer loads them by from_pretrained from the folder
that `lmjax export` writes. Prompts of 32 tokens, 128 new tokens each, 1, 8 and 32 prompts at once;
a time is that of the whole call, prompts and all, in tokens drawn a second.

Both must draw the same tokens, or the benchmark stops; only where the two best logits differ by
less than 1e-4 at the first different token of a row, it goes on and says so. Then the two take
turns, a block of calls each; the ratio is taken within each pair, and two blocks of the peer beside
each other give the noise of that ratio.

small  4 layers, 4 heads, width 128, 256 token ids
large  6 layers, 6 heads, width 384, 50,257 token ids

Expected (2 cores): a ratio of at least 1 in every row.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.core import meta

from experiments.benchmarks.turns import Peer, doubt, ratios, spread, take_turns
from lmjax.generate import Sampling, generate
from lmjax.models import GPT
from lmjax.pretrained import export
from lmjax.state import parameter_count

MODELS = {
    "small": GPT(depth=4, heads=4, width=128, max_length=256),
    "large": GPT(depth=6, heads=6, width=384, max_length=256, vocab_size=50257),
}
BATCHES = (1, 8, 32)  # prompts at once
PROMPT, NEW = 32, 128  # tokens
TIE = 1e-4  # of the two best logits
BLOCK_SECONDS = 1.0
LEAST = 1.0  # the ratio that is expected


class Writing:
    """Our side: a model, drawn weights and prompts."""

    def __init__(self, model: GPT):
        self.model, random = model, np.random.default_rng(0)
        tokens = jax.ShapeDtypeStruct((1, PROMPT), jnp.int32)
        shapes = jax.eval_shape(model.build().init, jax.random.key(0), tokens)["params"]
        self.params = jax.tree.map(
            lambda x: jnp.asarray(0.1 * random.standard_normal(x.shape, x.dtype)),
            meta.unbox(shapes),
        )
        self.prompts = random.integers(0, model.vocab_size, (max(BATCHES), PROMPT))

    def tokens(self, batch: int) -> list[list[int]]:
        prompts, key = self.prompts[:batch].tolist(), jax.random.key(0)
        greedy, size = Sampling(temperature=0.0), self.model.vocab_size
        return generate(self.model, self.params, prompts, NEW, key, greedy, size).tolist()

    def seconds(self, batch: int, calls: int) -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            self.tokens(batch)
        return (time.perf_counter() - begun) / calls

    def gap(self, row: int, drawn: list[int]) -> float:
        """Between the two best logits after a prompt and what was drawn."""
        read = jnp.asarray([[*self.prompts[row].tolist(), *drawn]], jnp.int32)
        logits = self.model.build().apply({"params": self.params}, read, train=False)
        second, best = np.sort(np.asarray(logits)[0, -1])[-2:]
        return float(best - second)


def check_tokens(writing: Writing, ours: list[list[int]], theirs: list[list[int]]) -> list[float]:
    """The gaps of the near ties by which rows differ; raises RuntimeError for other differences."""
    ties, wrong = [], []
    for row, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            first = next(n for n, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
            ties.append(writing.gap(row, a[:first]))
            wrong += [row] if ties[-1] >= TIE else []
    if wrong:
        raise RuntimeError(
            f"{len(wrong)} of {len(ours)} rows differ from the peer's, where the two best logits "
            f"are {max(ties):.1e} apart"
        )
    return ties


def measure(writing: Writing, peer: Peer | None, batch: int, pairs: int) -> dict[str, Any]:
    """The numbers of one row."""
    ours = writing.tokens(batch)
    calls = max(1, round(BLOCK_SECONDS / writing.seconds(batch, 1)))
    result: dict[str, Any] = {"distinct_tokens": len(np.unique(ours)), "calls_in_a_block": calls}
    if peer is None:
        taken = [writing.seconds(batch, calls) for _ in range(pairs)]
        return result | {"tokens_per_second": speed(batch, taken)}
    prompts = writing.prompts[:batch].tolist()
    ties = check_tokens(writing, ours, peer.ask(prompts=prompts, new=NEW))
    slow = peer.ask(calls=1)
    peer_calls = max(1, round(BLOCK_SECONDS / slow))
    turns = take_turns(
        lambda: writing.seconds(batch, calls), lambda: peer.ask(calls=peer_calls), pairs
    )
    return result | {
        "near_ties": ties,
        "tokens_per_second": speed(batch, turns.ours),
        "peer_tokens_per_second": speed(batch, turns.other),
        "ratio": ratios(turns.other, turns.ours),
        "noise": ratios(turns.again, turns.other),
        "expected": LEAST,
        "pairs": pairs,
    }


def speed(batch: int, seconds: list[float]) -> dict[str, float]:
    """Tokens drawn a second."""
    return spread([batch * NEW / taken for taken in seconds])


def tell(name: str, result: dict[str, Any]) -> str:
    """One line for a reader."""
    line = f"{name}: {result['tokens_per_second']['median']:.0f} tokens/s"
    if "ratio" not in result:
        return f"{line}, measured alone (no --peer-python)"
    ratio, noise, ties = result["ratio"], result["noise"], result["near_ties"]
    same = f"the same but for {len(ties)} near ties" if ties else "the same"
    peers = result["peer_tokens_per_second"]["median"]
    return (
        f"{line}, {ratio['median']:.2f} times the peer's {peers:.0f} "
        f"(quartiles {ratio['low']:.2f} to {ratio['high']:.2f}; expected {result['expected']}; "
        f"peer beside peer {noise['median']:.2f}); {result['distinct_tokens']} different tokens, "
        f"{same}{doubt(noise)}"
    )


def main() -> None:
    """Measure every row, print a line each, write the JSON."""
    parser = argparse.ArgumentParser(description="Greedy text beside transformers' generate.")
    parser.add_argument("--json", help="where to write the numbers")
    parser.add_argument("--peer-python", help="an interpreter that has torch and transformers")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of blocks per row")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, choices=BATCHES, default=list(BATCHES))
    given = parser.parse_args()
    results: dict[str, Any] = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "rows": {},
    }
    script = str(Path(__file__).with_name("torch_decode.py"))
    peer = Peer(given.peer_python, script) if given.peer_python else None
    for name in given.models:
        writing = Writing(MODELS[name])
        if peer:
            with tempfile.TemporaryDirectory() as path:
                folder = Path(path) / "model"
                export.write(writing.model, writing.params, folder, "float32")
                built = peer.ask(folder=str(folder))
            assert built["parameters"] == parameter_count(writing.params)
            results |= {key: built[key] for key in ("torch", "transformers")}
        for batch in given.batches:
            result = measure(writing, peer, batch, given.pairs)
            results["rows"][f"{name}, batch {batch}"] = result
            print(tell(f"{name}, batch {batch}", result), flush=True)
    if peer:
        peer.close()
    if given.json:
        epath.Path(given.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
