"""Micro-batches on many devices: summed on each device first, and over devices once."""

import math
import re

import numpy as np
import pytest

COLLECTIVES = r"""
import dataclasses, json
import jax, numpy as np
from experiments import digits_fcn
from lmjax import overrides, parallel
from lmjax.cli import parse_value
from lmjax.mesh import make_mesh
from lmjax.metrics import unpack, values
from lmjax.parallel import compile_program
from lmjax.step import WHOLE

words = ("task.model:mlp --task.model.hidden 32 --batch-size 64 --accumulation 4 "
         "optimizer:adamw --optimizer.clip-norm 1 --optimizer.eps 1e-3")
experiment = overrides.apply(digits_fcn.config(), words.split(), parse_value)
batch = experiment.data.load().batch(0, 0, experiment.batch_size)
told = []
for devices, split_of in ((4, parallel.split_of), (4, lambda *_: WHOLE), (1, parallel.split_of)):
    parallel.split_of = split_of
    mesh = make_mesh(experiment.parallel, jax.devices()[:devices])
    program = compile_program(experiment, batch, mesh)
    state, [placed] = program.init(program.knobs), program.place(batch)
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    step = program.train_step.lower(state, placed, None, program.knobs).compile()
    state, metrics = step(state, placed, None, program.knobs)
    moments = [np.ravel(x) for x in jax.tree.leaves(state.opt_state["direction"].mu)]
    told.append({"text": step.as_text(), "size": size, "moments": np.concatenate(moments).tolist(),
                 "metrics": values(unpack(program.metric_names, metrics))})
print(json.dumps(told))
"""


def collectives(text: str) -> dict[str, list[int]]:
    """Numbers in the result of each collective of an HLO text, in loops and outside of them."""
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = opened[1]
        bodies.setdefault(name, []).append(line)

    def called(name: str, kinds: str) -> set[str]:
        return set(re.findall(rf"(?:{kinds})=%?([\w.-]+)", "\n".join(bodies.get(name, []))))

    inside: set[str] = set()
    waiting = set[str]().union(*(called(name, "body") for name in bodies))
    while waiting:
        name = waiting.pop()
        inside.add(name)
        waiting |= called(name, "body|condition|to_apply|calls") - inside
    found: dict[str, list[int]] = {"in loops": [], "outside": []}
    for name, lines in bodies.items():
        for line in lines:
            kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
            if match := re.search(rf"= (.*?) (?:{kinds})(?:-start)?\(", line):
                shapes = re.findall(r"[a-z]+[0-9]+\[([0-9,]*)\]", match[1])
                sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
                found["in loops" if name in inside else "outside"].append(sum(sizes))
    return found


def test_micro_batches_cost_one_all_reduce(eight_devices):
    """Of as many numbers as there are parameters, and some metrics."""
    (once, each, alone), _ = eight_devices(COLLECTIVES)
    found = collectives(once["text"])
    assert found["in loops"] == []
    (size,) = found["outside"]
    assert once["size"] < size < once["size"] + 20
    control = collectives(each["text"])  # as the partitioner does it
    assert sum(control["in loops"]) > once["size"]
    assert collectives(alone["text"]) == {"in loops": [], "outside": []}
    for other in (each, alone):
        assert np.allclose(once["moments"], other["moments"], atol=1e-8, rtol=1e-5)
        assert once["metrics"] == pytest.approx(other["metrics"], rel=1e-6)
    assert not np.allclose(
        once["moments"], 1.001 * np.array(alone["moments"]), atol=1e-8, rtol=1e-5
    )
