"""The contract that every optimizer keeps, one row each."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax.optim import SGD, AdamW, Lion, Muon, Optimizer
from lmjax.parts import alternatives, leaves, replace
from lmjax.roles import Leaf

ROLES = {
    "stack": Leaf((2, 4, 6), ("layers", "embed", "mlp")),
    "table": Leaf((5, 4), ("vocab", "embed")),
    "bias": Leaf((4,), ("embed",)),
}
PARAMS = {
    name: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape), jnp.float32)
    for name, leaf in ROLES.items()
}
ROWS = [
    (SGD(), 0),
    (SGD(momentum=0.9), 1),
    (SGD(momentum=0.9, nesterov=True), 1),
    (AdamW(), 2),
    (Lion(learning_rate=0.01), 1),
    (Muon(), 1),
]
each = pytest.mark.parametrize(
    ("optimizer", "copies"),
    ROWS,
    ids=[f"{o.label}{'-nesterov' * getattr(o, 'nesterov', False)}-{c}" for o, c in ROWS],
)


def constant(count):
    return 1.0


def build(optimizer: Optimizer, learning_rate=None):
    rate = optimizer.learning_rate if learning_rate is None else learning_rate
    return optimizer.build(ROLES, rate, constant)


def gradients(step: int, dtype=jnp.float32):
    """Noisy gradients of half the squared norm, fixed by the step; every third is very noisy."""
    rng, noise = np.random.default_rng(step), 5.0 if step % 3 == 1 else 0.1
    return lambda params: jax.tree.map(
        lambda p: (p + noise * rng.normal(size=p.shape)).astype(dtype), params
    )


def trajectory(optimizer: Optimizer, steps: int = 9, params=PARAMS):
    transform = build(optimizer)
    state = transform.init(params)
    for step in range(steps):
        updates, state = transform.update(gradients(step)(params), state, params)
        params = optax.apply_updates(params, updates)
    return optimizer.evaluation_params(state, params)


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def test_every_optimizer_has_a_row():
    ours = {o for o in alternatives(Optimizer).values() if o.__module__.startswith("lmjax.")}
    assert {type(optimizer) for optimizer, _ in ROWS} == ours


@each
def test_it_optimises(optimizer, copies):
    quick = replace(optimizer, "learning_rate", 0.05)
    transform = build(quick)
    params, state = PARAMS, transform.init(PARAMS)
    for _ in range(60):
        updates, state = transform.update(gradients(0)(params), state, params)
        params = optax.apply_updates(params, updates)
    before, after = (float(optax.tree.norm(p)) for p in (PARAMS, params))
    assert after < 0.9 * before


@each
def test_state_bytes(optimizer, copies):
    """Copies of the moved parameters; the table and bias of a matrix method keep AdamW's two."""
    state = build(optimizer).init(PARAMS)
    size = {name: leaf.size for name, leaf in ROLES.items()}
    held = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    auxiliary = isinstance(optimizer, Muon)
    assert held == copies * size["stack"] + (2 if auxiliary else copies) * (
        size["table"] + size["bias"]
    )


@each
def test_a_traced_rate_gives_the_bits_of_a_constant_one(optimizer, copies):
    def steps(rate):
        transform = build(optimizer, rate)
        state, params = transform.init(PARAMS), PARAMS
        for step in range(4):
            updates, state = transform.update(gradients(step)(params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    rate = np.float32(optimizer.learning_rate)
    constant_rate = jax.jit(lambda: steps(float(rate)))()
    assert same(jax.jit(steps)(rate), constant_rate)
    assert not same(jax.jit(steps)(np.nextafter(rate, np.float32(1))), constant_rate)


@each
def test_zero_gradients_are_safe(optimizer, copies):
    transform = build(dataclasses.replace(optimizer, weight_decay=0.0))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, state = transform.update(zeros, transform.init(PARAMS), PARAMS)
    assert all(np.all(np.asarray(u) == 0) for u in jax.tree.leaves(updates))
    assert all(np.all(np.isfinite(s)) for s in jax.tree.leaves(state))


@each
def test_it_scans_with_a_state_of_stable_shape(optimizer, copies):
    transform = build(optimizer)

    def body(carry, noise):
        params, state = carry
        grads = jax.tree.map(lambda p: p + noise, params)
        updates, state = transform.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(
        body, (PARAMS, transform.init(PARAMS)), jnp.linspace(0, 0.1, 5)
    )
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    assert not same(params, PARAMS)


@each
def test_bfloat16_parameters_stay_bfloat16(optimizer, copies):
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    moved = trajectory(optimizer, 2, low)
    assert {x.dtype for x in jax.tree.leaves(moved)} == {jnp.dtype("bfloat16")}
    assert not same(moved, low)


def hyper_parameters():
    for optimizer, _ in ROWS:
        if optimizer == SGD():
            continue
        for path, (_, value) in leaves(optimizer).items():
            yield pytest.param(optimizer, path, value, id=f"{optimizer.label}-{path}-{value}")


OTHER = {
    "newton_schulz_dtype": "float32",
    "nesterov": True,
    "clip_norm": 0.5,
    "newton_schulz_steps": 3,
    "eps": 1e-2,
}


@pytest.mark.parametrize(("optimizer", "path", "value"), list(hyper_parameters()))
def test_every_hyper_parameter_changes_the_trajectory(optimizer, path, value):
    name = path.split(".")[-1]
    other = OTHER[name] if name in OTHER else 0.5 * value if value else 0.3
    changed = replace(optimizer, path, not value if name == "nesterov" else other)
    assert not same(trajectory(changed), trajectory(optimizer))
    assert same(trajectory(optimizer), trajectory(optimizer))


def test_decay_and_rule_follow_the_role():
    """With no gradient only decay moves: on the stack and the table, never on the bias."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    muon = Muon(weight_decay=0.1)
    muon = replace(muon, "auxiliary.weight_decay", 0.5)
    transform = build(muon)
    updates, _ = transform.update(zeros, transform.init(PARAMS), PARAMS)
    assert np.allclose(updates["stack"], -muon.learning_rate * 0.1 * PARAMS["stack"])
    assert np.allclose(updates["table"], -muon.auxiliary.learning_rate * 0.5 * PARAMS["table"])
    assert np.all(np.asarray(updates["bias"]) == 0)


def test_clipping_bounds_the_norm_of_the_gradient():
    huge = jax.tree.map(lambda p: 1e3 * jnp.ones_like(p), PARAMS)
    for clip_norm, expected in [(0.5, 0.5), (0.0, float(optax.tree.norm(huge)))]:
        transform = build(SGD(learning_rate=1.0, clip_norm=clip_norm))
        updates, _ = transform.update(huge, transform.init(PARAMS), PARAMS)
        assert np.allclose(float(optax.tree.norm(updates)), expected, rtol=1e-5)


def test_muon_s_steps_have_singular_values_near_one_for_each_layer():
    transform = build(Muon(learning_rate=1.0, newton_schulz_dtype="float32"))
    updates, _ = transform.update(gradients(0)(PARAMS), transform.init(PARAMS), PARAMS)
    scale = (6 / 4) ** 0.5
    for layer in range(2):
        values = np.linalg.svd(np.asarray(updates["stack"][layer]), compute_uv=False) / scale
        assert np.all((values > 0.6) & (values < 1.3))
    raw = np.linalg.svd(np.asarray(gradients(0)(PARAMS)["stack"][0]), compute_uv=False)
    assert raw.max() / raw.min() > 2


REFERENCE = np.load(Path(__file__).parent / "references" / "ema.npz")


def averages(optimizer: Optimizer, walk: np.ndarray) -> np.ndarray:
    """Where the model is evaluated after each step of a walk that the gradients prescribe."""
    roles = {"w": Leaf(walk.shape[1:], ("embed", "mlp"))}
    transform = optimizer.build(roles, 1.0, constant)
    params = {"w": jnp.zeros_like(walk[0])}
    state, seen = transform.init(params), []
    for target in walk:
        updates, state = transform.update({"w": params["w"] - target}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(optimizer.evaluation_params(state, params)["w"]))
    return np.stack(seen)


def test_the_average_equals_torch_s():
    with jax.enable_x64(True):
        walk, theirs = REFERENCE["walk"], REFERENCE["average"]
        decay = float(REFERENCE["decay"])
        ours = averages(SGD(learning_rate=1.0, ema_decay=decay), walk)
        assert np.abs(ours - theirs).max() < 1e-12
        other = averages(SGD(learning_rate=1.0, ema_decay=decay - 0.01), walk)
        assert np.abs(other - theirs).max() > 1e-2
        assert np.array_equal(averages(SGD(learning_rate=1.0), walk), walk)
