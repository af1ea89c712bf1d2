"""Virtual shards: the same bits on 1, 2, 4 and 8 devices, and on a run that moves between them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import simulated

ROOT = Path(__file__).parents[1]

GPT = (  # dropout, clipping, accumulation
    "--task.model.depth 2 --task.model.unroll 1 --task.model.width 32 --task.model.heads 4 "
    "--task.model.max-length 32 --data.sequence-length 32 --batch-size 16 --accumulation 2 "
    "--task.model.dropout 0.1 --optimizer.clip-norm 1.0 --steps 300 --schedule.warmup-steps 20"
)
RESNET = (  # BatchNorm, images that move and mix
    "--task.model.blocks 2 --task.model.width 4 --batch-size 64 --steps 300"
)
SMALL = {  # as quick to compile as can be
    "gpt": ("char_gpt", f"{GPT} --task.model.depth 1 --compute-dtype bfloat16"),
    "resnet": ("digits_resnet", f"{RESNET} --task.model.blocks 1"),
    "mlp": ("digits_fcn", "task.model:mlp --task.model.hidden 32 --batch-size 64 --steps 300"),
}

CODE = r"""
import dataclasses, functools, hashlib, importlib, json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, optax
from lmjax import overrides, shards
from lmjax.checkpoint import Checkpoints
from lmjax.cli import parse_value
from lmjax.mesh import Parallel, make_mesh
from lmjax.metrics import unpack, values
from lmjax.optim import SGD
from lmjax.parallel import compile_program

asked = json.loads(sys.argv[1])

class Asking(SGD):  # for all that an optimizer may ask for
    label = "test-asking"
    needs_previous_batch = True

    def direction(self, roles):
        def update(grads, state, params=None, *, oracle, value_fn, **extra):
            def larger(by):
                return jax.tree.map(lambda p: (1 + by) * p, params)

            by = jax.lax.while_loop(
                lambda by: value_fn(larger(by)) < 3, lambda by: 2 * by, jnp.float32(0.01))
            asked = (grads, oracle.value_and_grad(larger(by))[1],
                     oracle.previous_value_and_grad(params)[1], oracle.sampled_grad())
            return jax.tree.map(lambda *grads: sum(grads), *asked), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

def hashed(tree):
    text = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree))
    return hashlib.sha256(text).hexdigest()[:12]

def experiment_of(case):
    base = importlib.import_module(f"experiments.{case['experiment']}").config()
    made = overrides.apply(base, case["words"].split(), parse_value)
    if case.get("asking"):
        made = dataclasses.replace(made, optimizer=Asking(learning_rate=0.03))
    return dataclasses.replace(made, parallel=Parallel(virtual_shards=case["shards"]))

def told(case):
    experiment = experiment_of(case)
    steps, moves = case["steps"], case.get("moves", [])
    dataset = experiment.data.load()
    host = [dataset.batch(0, t, experiment.batch_size) for t in range(steps)]
    needs_previous = experiment.optimizer.needs_previous_batch
    programs = {}
    for devices in {*case["devices"], *(move[0] for move in moves)}:
        mesh = make_mesh(experiment.parallel, jax.devices()[:devices])
        programs[devices] = compile_program(experiment, host[0], mesh)

    def train(program, state, start, stop):
        metrics = []
        for t in range(start, stop):
            batch = program.place(host[t])[0]
            before = program.place(host[max(t - 1, 0)])[0] if needs_previous else None
            state, packed = program.train_step(state, batch, before, program.knobs)
            metrics.append(np.asarray(packed))
        return state, metrics

    def result(program, state, metrics):
        held_out = next(dataset.evaluation(experiment.batch_size))
        evaluated = jax.device_get(program.eval_step(state, program.place(held_out)[0]))
        first, last = (values(unpack(program.metric_names, metrics[n])) for n in (0, -1))
        return {"params": hashed(state.params), "model_state": hashed(state.model_state),
                "opt_state": hashed(state.opt_state), "metrics": hashed(metrics),
                "evaluation": hashed(evaluated), "losses": [first["loss"], last["loss"]]}

    found = {}
    for devices in case["devices"]:
        program = programs[devices]
        state, metrics = train(program, program.init(program.knobs), 0, steps)
        found[devices] = result(program, state, metrics)
    if moves:
        state, start, metrics = None, 0, []
        checkpoints = Checkpoints(Path(case["folder"]))
        for devices, stop in moves:
            program = programs[devices]
            if state is None:
                state = program.init(program.knobs)
            else:
                state, _ = checkpoints.restore(start, program.abstract_state)
            state, more = train(program, state, start, stop)
            checkpoints.save(stop, state, {"config": {}, "data": {}})
            checkpoints.wait()
            start, metrics = stop, metrics + more
        found["moved"] = result(program, state, metrics)
        checkpoints.close()
    return found

results = []
for case in asked:
    if case.get("control") == "fused":
        shards.apart = lambda placement, function: function
    if case.get("control") == "fold":  # from left to right
        shards.tree_sum = lambda parts, add: functools.reduce(add, parts)
    results.append(told(case))
print(json.dumps(results))
"""


def bits(devices: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What CODE finds for each case, in a process with so many devices."""
    process = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": simulated.flags(devices),
        },
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def case(name: str, devices: list[int], **changes: Any) -> dict[str, Any]:
    experiment, words = SMALL[name]
    told = {"experiment": experiment, "words": words, "devices": devices, "steps": 6, "shards": 4}
    return told | changes


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    """The everyday subset, of 4 shards."""
    folder = tmp_path_factory.mktemp("moved")
    moves = [[4, 2], [1, 4], [4, 6]]  # devices, and up to which step
    cases = {
        "gpt": case("gpt", [1, 4], moves=moves, folder=str(folder)),
        "resnet": case("resnet", [2, 4]),
        "plain": case("mlp", [1, 4], shards=1),
        "four": case("mlp", [1]),
        "fold": case("mlp", [1], control="fold"),  # last: it stays so
    }
    return dict(zip(cases, bits(4, list(cases.values())), strict=True))


def check(found: dict[str, Any], falls: float) -> None:
    """Everything is equal, and the loss falls by this share of it at least."""
    first, *others = found.values()
    assert others
    for other in others:
        assert differing(first, other) == []
    assert first["losses"][1] < (1 - falls) * first["losses"][0]


def differing(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    return [name for name in one if one[name] != two[name]]


@pytest.mark.bits
@pytest.mark.parametrize("name", ["gpt", "resnet"])
def test_the_bits_are_the_same_on_every_number_of_devices(found, name):
    check(found[name], 0)


@pytest.mark.bits
def test_a_process_with_one_device_has_them_too(found):
    """It has fewer threads, unless they are made as many."""
    [alone] = bits(1, [case("resnet", [1])])
    assert differing(alone["1"], found["resnet"]["4"]) == []


@pytest.mark.bits
def test_without_shards_the_bits_follow_the_devices(found):
    """Negative control: otherwise the tests above show nothing."""
    assert {"params", "metrics"} <= set(differing(found["plain"]["1"], found["plain"]["4"]))


@pytest.mark.bits
def test_the_number_of_shards_decides_the_bits(found):
    """Negative control."""
    assert {"params", "metrics"} <= set(differing(found["plain"]["1"], found["four"]["1"]))


@pytest.mark.bits
def test_a_sum_in_another_order_is_seen(found):
    """Negative control: the same shards, summed from left to right."""
    assert "params" in differing(found["fold"]["1"], found["four"]["1"])


@pytest.mark.sweep
def test_what_is_fused_with_its_surroundings_is_seen():
    """Negative control: shards, sums and the update, with nothing that keeps them apart."""
    words = f"optimizer:muon {SMALL['gpt'][1]} --compute-dtype float32"
    asked = case("gpt", [1, 4], words=words, steps=12)
    fused, apart = bits(4, [{**asked, "control": "fused"}]), bits(4, [asked])
    assert "params" in differing(fused[0]["1"], fused[0]["4"])
    check(apart[0], 0)


OPTIMIZERS = {
    "sgd": "optimizer:sgd --optimizer.momentum 0.9 --optimizer.learning-rate 0.05",
    "adamw": "optimizer:adamw --optimizer.learning-rate 2e-3 --optimizer.ema-decay 0.9",
    "lion": "optimizer:lion --optimizer.learning-rate 3e-4",
    "muon": "optimizer:muon --optimizer.learning-rate 0.02",
}


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("char_gpt", GPT),
        ("digits_resnet", f"{RESNET} --accumulation 2 --task.augmentation.mixup 0.2"),
    ],
)
def test_200_steps_have_the_same_bits(tmp_path, experiment, words, optimizer, dtype):
    asked = {
        "experiment": experiment,
        "words": f"{OPTIMIZERS[optimizer]} --optimizer.clip-norm 1.0 --compute-dtype {dtype} "
        + words.replace("--optimizer.clip-norm 1.0", ""),
        "devices": [1, 2, 4, 8],
        "steps": 200,
        "shards": 8,
        "moves": [[4, 70], [2, 140], [8, 200]],
        "folder": str(tmp_path / "moved"),
    }
    [found] = bits(8, [asked])
    assert len(found) == 5
    check(found, 0.1)


@pytest.mark.sweep
def test_what_optimizers_ask_for_has_the_same_bits():
    """Gradients elsewhere, of the batch before and of drawn labels, and a search along a line."""
    [found] = bits(8, [case("mlp", [1, 2, 4, 8], shards=8, steps=30, asking=True)])
    check(found, 0.1)


@pytest.mark.sweep
def test_a_run_that_moves_between_processes_has_them_too(tmp_path):
    """As a user does it: 4 devices, then 2, then 8, beside one device all the way."""
    words = f"train digits_resnet schedule:constant --parallel.virtual-shards 8 {RESNET}"

    def lmjax(devices: int, *words: str) -> str:
        flags = simulated.flags(devices)
        process = subprocess.run(
            [sys.executable, "-m", "lmjax", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags},
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    for run, way in {"moved": [(4, 5), (2, 9), (8, 12)], "still": [(1, 12)]}.items():
        for devices, steps in way:
            told = lmjax(devices, *words.split(), "--steps", str(steps), "--workdir", run)
            assert "virtual shards: 8, the same bits on 1, 2, 4 or 8 devices" in told
    files = {run: tmp_path / run for run in ("moved", "still")}
    results = {run: json.loads((at / "result.json").read_text()) for run, at in files.items()}
    for name in ("state_digest", "validation"):
        assert results["moved"][name] == results["still"][name]
    steps = [
        [line for line in (at / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
        for at in files.values()
    ]
    assert steps[0] == steps[1]
    lmjax(1, "eval", "moved", "--json", "evaluated.json")
    told = json.loads((tmp_path / "evaluated.json").read_text())
    assert told["validation"] == results["still"]["validation"]
