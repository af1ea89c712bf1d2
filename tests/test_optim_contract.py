"""The contract that every optimizer keeps, one row each."""

import dataclasses
import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from optim_contract_rows import OTHER, PARAMS, ROLES, ROWS, SEEN, UNSEEN, Row, refusal

from lmjax.errors import FieldError
from lmjax.optim import (
    LAMB,
    LARS,
    MARS,
    SGD,
    SOAP,
    Adafactor,
    Dion2,
    DMuon,
    Kron,
    Muon,
    MuonOptax,
    NorMuon,
    Optimizer,
    ScheduleFreeAdamW,
    Scion,
    Shampoo,
)
from lmjax.overrides import to_words
from lmjax.parts import alternatives, leaves, replace, validate
from lmjax.roles import Leaf

STEPS = 60
TARGETS = 8  # in every batch, for those who ask
IDS = [" ".join([o.label, *to_words(type(o)(), o)]) for o in (row.optimizer for row in ROWS)]
each = pytest.mark.parametrize("row", ROWS, ids=IDS)


def constant(count: Any) -> float:
    return 1.0


def build(optimizer: Optimizer, learning_rate: Any = None) -> optax.GradientTransformationExtraArgs:
    rate = optimizer.learning_rate if learning_rate is None else learning_rate
    return optimizer.build(ROLES, rate, constant)


def gradients(step: int, dtype: Any = jnp.float32) -> Callable[[Any], Any]:
    """Noisy gradients of half the squared norm, fixed by the step; every third is very noisy."""
    rng, noise = np.random.default_rng(step), 5.0 if step % 3 == 1 else 0.1
    return lambda params: jax.tree.map(
        lambda p: (p + noise * rng.normal(size=p.shape)).astype(dtype), params
    )


def noise(steps: int, scale: float = 1.0) -> Any:
    """What is added to the gradients of half the squared norm, [steps, ...]; a third is large."""
    rng = np.random.default_rng(3)
    large = np.where(np.arange(steps) % 3 == 1, 5.0, 0.1) * scale
    return {
        name: jnp.asarray(
            large.reshape(-1, *[1] * p.ndim) * rng.normal(size=(steps, *p.shape)), p.dtype
        )
        for name, p in PARAMS.items()
    }


def walk(optimizer: Optimizer, rate: Any, params: Any, noise: Any, curvature: Any = 1.0) -> Any:
    """(where the model is evaluated after all steps, the state): one scan; to be traced."""
    transform = build(optimizer, rate)

    def step(carry: Any, noise: Any) -> tuple[Any, None]:
        params, state = carry

        def gradient(p: Any, n: Any) -> Any:
            return (curvature * p + n).astype(p.dtype)

        def value(params: Any, oracle: Any = None) -> Any:
            del oracle
            each = jax.tree.map(lambda p, n: jnp.sum(0.5 * curvature * p**2 + n * p), params, noise)
            return sum(jax.tree.leaves(each))

        def at(params: Any) -> Any:
            return value(params), jax.tree.map(gradient, params, noise)

        loss, grads = at(params)
        oracle = types.SimpleNamespace(
            value_and_grad=at, sampled_grad=lambda: at(params)[1], targets=TARGETS
        )
        extra = {"value": loss, "grad": grads, "value_fn": value, "oracle": oracle}
        updates, state = transform.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, transform.init(params)), noise)
    return optimizer.evaluation_params(state, params), state


def quickly(function: Callable[..., Any]) -> Any:
    """Jitted with as little optimisation as XLA allows: these programs run for milliseconds."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def traced(optimizer: Optimizer) -> Callable[..., Any]:
    """(rate, params, noise, curvature) -> as `walk` without decay, compiled once a shape."""
    return jax.jit(functools.partial(walk, dataclasses.replace(optimizer, weight_decay=0.0)))


def same(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def ours() -> set[type[Optimizer]]:
    found = alternatives(Optimizer).values()
    return {cls for cls in found if cls.__module__.startswith("lmjax.")}


def test_every_optimizer_has_a_row() -> None:
    assert {type(row.optimizer) for row in ROWS} == ours()


@each
def test_it_optimises_in_a_scan(row: Row) -> None:
    params, _ = traced(row.optimizer)(jnp.float32(0.05), PARAMS, noise(STEPS, 0.02), 1.0)
    before, after = (float(optax.tree.norm(p)) for p in (PARAMS, params))
    assert after < 0.9 * before
    still, _ = traced(row.optimizer)(jnp.float32(0), PARAMS, noise(STEPS, 0.02), 1.0)
    assert np.allclose(float(optax.tree.norm(still)), before, rtol=0.3)  # the auxiliary may move


@each
def test_a_traced_rate_gives_the_bits_of_a_constant_one(row: Row) -> None:
    rate = np.float32(row.optimizer.learning_rate)
    still = dataclasses.replace(row.optimizer, weight_decay=0.0)

    @jax.jit
    def constant_rate(params: Any, noise: Any, curvature: Any) -> Any:
        return walk(still, float(rate), params, noise, curvature)

    by_constant = constant_rate(PARAMS, noise(STEPS), 1.0)
    assert same(traced(row.optimizer)(rate, PARAMS, noise(STEPS), 1.0), by_constant)
    other = np.nextafter(rate, np.float32(2))
    assert not same(traced(row.optimizer)(other, PARAMS, noise(STEPS), 1.0), by_constant)


@each
def test_zero_gradients_are_safe(row: Row) -> None:
    zeros = jax.tree.map(jnp.zeros_like, noise(STEPS))
    params, state = traced(row.optimizer)(jnp.float32(0.05), PARAMS, zeros, 0.0)
    assert same(params, PARAMS)
    assert all(np.all(np.isfinite(s)) for s in jax.tree.leaves(state))


@each
def test_the_state_takes_exactly_these_bytes(row: Row) -> None:
    state = jax.eval_shape(build(row.optimizer).init, PARAMS)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert held == 4 * (row.numbers + row.counters)


@each
def test_bfloat16_parameters_stay_bfloat16(row: Row) -> None:
    """The scan refuses a state whose dtypes a step changes."""
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), (PARAMS, noise(STEPS)))
    shapes = jax.eval_shape(functools.partial(walk, row.optimizer, 0.1), *low)
    assert {x.dtype for x in jax.tree.leaves(shapes[0])} == {jnp.dtype("bfloat16")}
    kept = jax.eval_shape(build(row.optimizer).init, low[0])
    assert jax.tree.map(lambda x: x.dtype, shapes[1]) == jax.tree.map(lambda x: x.dtype, kept)


def changed(optimizer: Optimizer, path: str, value: Any) -> Optimizer:
    name = path.split(".")[-1]
    if name in OTHER:
        return replace(optimizer, path, OTHER[name])
    if isinstance(value, bool):
        return replace(optimizer, path, not value)
    return replace(optimizer, path, 0.5 * value if value else 0.3)


@each
def test_every_hyper_parameter_changes_the_trajectory(row: Row) -> None:
    """A dead one is a bug. Step by step, since nearly a hundred programs would take a minute."""
    optimizer = row.optimizer
    few = jax.tree.map(lambda n: n[: SEEN.get(optimizer.label, 4)], noise(STEPS))

    def end(optimizer: Optimizer) -> Any:
        with jax.disable_jit():
            return walk(optimizer, optimizer.learning_rate, PARAMS, few)[0]

    as_it_is, dead = end(optimizer), []
    assert same(end(optimizer), as_it_is)
    for path, (_, value) in leaves(optimizer).items():
        other = changed(optimizer, path, value)
        if (told := refusal(optimizer, path)) is not None:
            with pytest.raises(FieldError, match=told):
                validate(other)
            continue
        validate(other)
        if same(end(other), as_it_is):
            dead.append(path)
    assert dead == UNSEEN.get(optimizer.label, [])


def test_schedule_free_moves_at_the_first_step_of_a_warm_up() -> None:
    """optax's own, whose warm-up begins with a rate of 0, does not."""
    optimizer = ScheduleFreeAdamW()
    ours = optimizer.build(ROLES, optimizer.learning_rate, lambda count: (count + 1) / 10)
    theirs = optax.contrib.schedule_free_adamw(optimizer.learning_rate, warmup_steps=10)
    for transform, moves in ((ours, True), (theirs, False)):
        first = transform.init(PARAMS)
        updates, _ = quickly(transform.update)(gradients(0)(PARAMS), first, PARAMS)
        largest = min(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(updates))
        assert (largest > 1e-5) is moves  # beyond rounding


@pytest.mark.parametrize(
    ("optimizer", "known"),
    [
        (Muon(), True),
        (Muon(), False),
        (MuonOptax(), True),
        (SOAP(), True),
        (MARS(), True),
        (Adafactor(factored_from=1), True),
        (DMuon(), True),
        (LAMB(), True),
        (LARS(coefficient=1.0), True),
        (NorMuon(), True),
        (Scion(), True),
        (Dion2(fraction=0.5), True),
        (Shampoo(refresh_every=1), True),
        (Kron(), True),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_q_k_and_v_and_each_layer_are_matrices_of_their_own(
    optimizer: Optimizer, known: bool
) -> None:
    """Of a fused leaf as models have it; when not `known`, q, k and v are taken for columns."""
    axes = ("heads", "qkv", "head_dim") if known else ("height", "width", "conv_in")
    leaf = Leaf((2, 4, 2, 3, 2), ("layers", "embed", *axes))
    # Names in the order of the stack, in which Kron draws.
    apart = {f"{layer}{n}": Leaf((4, 4), ("embed", "mlp")) for layer in "ab" for n in "012"}

    def cut(x: Any) -> dict[str, Any]:
        return dict(zip(apart, jnp.moveaxis(x, 3, 1).reshape(6, 4, 4), strict=True))

    def end(roles: Any, start: Any, gradients: list[Any]) -> Any:
        transform = optimizer.build(roles, 0.1, constant)
        params, state = start, transform.init(start)
        for gradient in gradients:
            updates, state = transform.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    rng = np.random.default_rng(5)
    start, *given = (jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for _ in range(4))
    together = quickly(functools.partial(end, {"w": leaf}))({"w": start}, [{"w": x} for x in given])
    by_themselves = quickly(functools.partial(end, apart))(cut(start), [cut(x) for x in given])
    near = jax.tree.map(
        lambda a, b: np.allclose(a, b, atol=1e-4), cut(together["w"]), by_themselves
    )
    assert jax.tree.all(near) is known


def test_decay_and_rule_follow_the_role() -> None:
    """With no gradient only decay moves: on the stack and the table, never on the bias."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    muon = Muon(weight_decay=0.1)
    muon = replace(muon, "auxiliary.weight_decay", 0.5)
    transform = build(muon)
    updates, _ = transform.update(zeros, transform.init(PARAMS), PARAMS)
    assert np.allclose(updates["stack"], -muon.learning_rate * 0.1 * PARAMS["stack"])
    assert np.allclose(updates["table"], -muon.auxiliary.learning_rate * 0.5 * PARAMS["table"])
    assert np.all(np.asarray(updates["bias"]) == 0)


def test_clipping_bounds_the_norm_of_the_gradient() -> None:
    huge = jax.tree.map(lambda p: 1e3 * jnp.ones_like(p), PARAMS)
    for clip_norm, expected in [(0.5, 0.5), (0.0, float(optax.tree.norm(huge)))]:
        transform = build(SGD(learning_rate=1.0, clip_norm=clip_norm))
        updates, _ = transform.update(huge, transform.init(PARAMS), PARAMS)
        assert np.allclose(float(optax.tree.norm(updates)), expected, rtol=1e-5)


def test_muon_s_steps_have_singular_values_near_one_for_each_layer() -> None:
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


def test_the_average_equals_torch_s() -> None:
    with jax.enable_x64(True):
        walk, theirs = REFERENCE["walk"], REFERENCE["average"]
        decay = float(REFERENCE["decay"])
        ours = averages(SGD(learning_rate=1.0, ema_decay=decay), walk)
        assert np.abs(ours - theirs).max() < 1e-12
        other = averages(SGD(learning_rate=1.0, ema_decay=decay - 0.01), walk)
        assert np.abs(other - theirs).max() > 1e-2
        assert np.array_equal(averages(SGD(learning_rate=1.0), walk), walk)
