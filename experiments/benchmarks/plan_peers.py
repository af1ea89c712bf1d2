"""How far is what `lmjax plan` predicts from what MaxText has measured on the same chips?

Command: `uv run --isolated --extra aot python -m experiments.benchmarks.plan_peers --json PATH`
Hardware: 2 CPU cores; no chip. Time: 1 to 3 minutes. Expected: a table of four rows.

Ours are static and measure nothing; MaxText's are what it publishes. Sizes and batches are those of
its scripts (AI-Hypercomputer/maxtext at 07775101, MaxText/configs/v5e/16b.sh, v5e/32b.sh, and at
0d9779a5 v5p/32b.sh, with global_parameter_scale 16 and 32; AI-Hypercomputer/tpu-recipes at
a9e09290, training/trillium/Llama3.1-8B-MaxText/v6e-256). The program is ours: all of a layer is
computed again, where MaxText's v6e recipe moves what it keeps to the host and its v5p recipe keeps
the results of products, which does not fit here (141 GB of temporaries of 103).
MFU counts all positions of attention and no embedding, as MaxText's did then.
"""

import argparse
import dataclasses
import json
from typing import Any, NamedTuple

from experiments import llama_8b
from lmjax.chips import read_topology
from lmjax.console import aligned
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel
from lmjax.models import Llama
from lmjax.models.decoder import Remat
from lmjax.plan import plan
from lmjax.score_card import fits_line, to_json


class Row(NamedTuple):
    """One of MaxText's published numbers, and how it was run."""

    name: str
    topology: str
    model: dict[str, Any]
    length: int  # positions
    rows: int  # sequences on each chip
    tensor: int
    remat: Remat
    published: float  # MFU


def scaled(width: int) -> dict[str, Any]:
    """MaxText's default model at global_parameter_scale 16 (width 4,096) and 32 (8,192)."""
    sizes = {"depth": 32, "width": width, "heads": 64, "kv_heads": 64, "head_dim": 128}
    return {**sizes, "mlp_width": 28672, "vocab_size": 32000, "max_length": 2048}


ROWS = (
    Row("Llama 3 8B", "v6e:16x16", Llama.presets["llama3-8b"], 8192, 4, 1, "full", 417.397 / 918),
    Row("16B", "v5e:16x16", scaled(4096), 2048, 6, 1, "full", 0.6110),
    Row("32B", "v5e:16x16", scaled(8192), 2048, 4, 1, "full", 0.6686),
    Row("32B", "v5p:4x4x4", scaled(8192), 2048, 7, 4, "full", 0.7147),
)


def experiment(row: Row, chips: int) -> Experiment:
    """The row as an experiment of ours, with the state cut over all chips."""
    base = llama_8b.config()
    model = Llama(**{**row.model, "remat": row.remat})
    sizes = {"sequence_length": row.length, "vocab_size": model.vocab_size, "end_of_text": 0}
    return dataclasses.replace(
        base,
        task=dataclasses.replace(base.task, model=model),
        data=dataclasses.replace(base.data, **sizes),
        batch_size=row.rows * chips,
        parallel=Parallel(fsdp=chips // row.tensor, tensor=row.tensor),
    )


def measure(row: Row) -> dict[str, Any]:
    """The plan of a row, as JSON, beside what is published."""
    topology = read_topology(row.topology)
    made = plan(experiment(row, topology.chips), topology)
    return {"name": row.name, "published": row.published, "fit": fits_line(made), **to_json(made)}


def table(found: list[dict[str, Any]]) -> str:
    """For a reader."""
    lines = [["model", "chips", "published MFU", "predicted", "if communication waits", "memory"]]
    for one in found:
        told = one["predicted"]
        pair = (
            [f"{told[key]['counted']:.1%}" for key in ("mfu", "mfu_in_turn")] if told else ["-"] * 2
        )
        held = f"{one['memory']['peak'] / one['memory']['chip']:.0%}"
        cells = [one["name"], one["topology"]["name"], f"{one['published']:.1%}"]
        lines.append([*cells, *pair, held])
    return aligned(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", required=True)
    given = parser.parse_args()
    found = [measure(row) for row in ROWS]
    print(table(found))
    with open(given.json, "w") as file:
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
