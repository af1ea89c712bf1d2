"""The step by jax.pmap beside jit's, on eight simulated devices."""

import pytest

from lmjax.errors import FieldError
from lmjax.mesh import Parallel

CODE = """
import json, jax, numpy as np
from experiments import char_gpt, digits_resnet
from lmjax import overrides
from lmjax.cli import parse_value
from lmjax.errors import FieldError
from lmjax.parallel import compile_program
from lmjax.state import state_digest

small = ("--task.model.depth 2 --task.model.unroll 1 --task.model.width 32 --steps 10 "
         "--schedule.warmup-steps 2 --task.model.dropout 0.1 --optimizer.eps 1e-3")

calls, real = [], jax.pmap
jax.pmap = lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)

def run(words, start=None):
    calls.clear()
    e = overrides.apply(char_gpt.config(), (small + words).split(), parse_value)
    data = e.load_data()
    program = compile_program(e, data.batch(0, 0, e.batch_size))
    state = program.init(program.knobs) if start is None else start
    kept = []
    for step in range(int(state.step), int(state.step) + 5):
        (batch,) = program.place(data.batch(0, step, e.batch_size))
        state, metrics = program.train_step(state, batch, None, program.knobs)
        kept.append(np.asarray(metrics).tolist())
    return jax.tree.map(np.asarray, state.params), kept, calls == [1], state

def apart(a, b):
    return max(float(abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))

p, m, is_pmap, state = run(" --parallel.compiler pmap")
q, n, is_not, _ = run(" --parallel.compiler jit")
other, *_ = run(" --parallel.compiler pmap --seed 1")
undropped, *_ = run(" --parallel.compiler pmap --task.model.dropout 0.0")
# A state that pmap made, taken on by jit, and by pmap.
layouts = [str(x.sharding.is_fully_replicated) for x in jax.tree.leaves(state)]
copy = jax.tree.map(lambda x: x.copy(), state)
by_jit, by_pmap = run(" --parallel.compiler jit", state), run(" --parallel.compiler pmap", copy)
told = {"apart": apart(p, q), "metrics": float(abs(np.array(m) - np.array(n)).max()),
        "seed": apart(p, other), "dropout": apart(p, undropped), "is": [is_pmap, is_not],
        "whole": sorted(set(layouts)), "taken_on": apart(by_jit[0], by_pmap[0])}
try:
    e = overrides.apply(digits_resnet.config(), ["--parallel.compiler", "pmap"], parse_value)
    compile_program(e, e.load_data().batch(0, 0, e.batch_size))
except FieldError as error:
    told["refused"] = str(error)
print(json.dumps(told))
"""
TOLERANCE = 2e-5  # of losses and parameters, as between one device and eight


@pytest.fixture(scope="module")
def told(eight_devices) -> dict:
    told, _ = eight_devices(CODE)
    return told


def test_pmap_computes_what_jit_does(told):
    assert told["is"] == [True, False]
    assert told["apart"] < TOLERANCE
    assert told["metrics"] < TOLERANCE * 100  # the largest is a perplexity of about 200


def test_another_seed_or_no_dropout_would_be_seen(told):
    assert min(told["seed"], told["dropout"]) > 10 * TOLERANCE


def test_either_takes_on_what_the_other_made(told):
    assert told["whole"] == ["True"]
    assert told["taken_on"] < TOLERANCE


def test_statistics_over_the_batch_are_refused(told):
    assert told["refused"].startswith(
        "parallel.compiler = 'pmap': needs a model without statistics"
    )


@pytest.mark.parametrize("field", ["fsdp", "sequence", "tensor", "virtual_shards"])
def test_pmap_is_for_copies_alone(field):
    with pytest.raises(FieldError, match=f"compiler = 'pmap': needs {field} 1, not 2"):
        Parallel(compiler="pmap", **{field: 2}).validate()
