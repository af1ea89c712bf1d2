"""What optimizers are known for: first steps, a counterexample, and what they do not mind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_contract_rows import PARAMS, ROLES
from optim_paths import quickly

from lmjax.optim import ADOPT, LAMB, LARS, SGD, AdamW, Lion, Muon, Optimizer, RAdam, Signum
from lmjax.optim.recipe import Auxiliary
from lmjax.roles import Leaf

TINY = 1e-30  # an eps that is lost beside any root of a moment here


def gradients(steps: int) -> Any:
    rng = np.random.default_rng(11)
    return {
        name: jnp.asarray(rng.normal(size=(steps, *p.shape)), jnp.float32)
        for name, p in PARAMS.items()
    }


def constant(count: Any) -> float:
    return 1.0


def end(optimizer: Optimizer, given: Any, scale: float = 1.0) -> Any:
    """The parameters after a step for each of the gradients, times a scale."""
    transform = optimizer.build(ROLES, optimizer.learning_rate, constant)

    def step(carry: Any, gradient: Any) -> Any:
        params, state = carry
        scaled = jax.tree.map(lambda g: scale * g, gradient)
        updates, state = transform.update(scaled, state, params)
        return (optax.apply_updates(params, updates), state), None

    return quickly(lambda p, g: jax.lax.scan(step, (p, transform.init(p)), g)[0][0])(PARAMS, given)


@pytest.mark.parametrize(
    ("optimizer", "by_signs"),
    [
        (AdamW(weight_decay=0.0), True),
        (Lion(), True),
        (Signum(), True),
        (RAdam(), False),  # whose first steps are momentum's
        (SGD(), False),
        (AdamW(weight_decay=0.0, eps=1.0), False),
    ],
    ids=lambda x: getattr(x, "label", ""),
)
def test_the_first_step_is_the_rate_times_the_sign(optimizer: Optimizer, by_signs: bool) -> None:
    given = gradients(1)
    moved = jax.tree.map(jnp.subtract, end(optimizer, given), PARAMS)
    expected = jax.tree.map(lambda g: -optimizer.learning_rate * jnp.sign(g[0]), given)
    near = jax.tree.map(
        lambda a, b: np.allclose(a, b, rtol=0, atol=0.02 * optimizer.learning_rate), moved, expected
    )
    assert jax.tree.all(near) is by_signs


C = 3.0  # the rare large gradient of the counterexample


def where_it_ends(transform: optax.GradientTransformation) -> float:
    """On Reddi et al.'s sequence (arXiv 1904.09237, theorem 1), kept within [-1, 1].

    Every third gradient is C, the others -1, so that the sum of losses is least at -1. b1 is 0 and
    b2 is 1 / (1 + C^2), as in the theorem, and the rate falls with the root of the step.
    """

    def step(carry: Any, number: Any) -> Any:
        params, state = carry
        gradient = {"x": jnp.where(number % 3 == 0, C, -1.0) * jnp.ones([1])}
        updates, state = transform.update(gradient, state, params)
        return ({"x": jnp.clip(params["x"] + updates["x"], -1, 1)}, state), None

    start = {"x": jnp.zeros([1])}

    def run(start: Any) -> Any:
        return jax.lax.scan(step, (start, transform.init(start)), jnp.arange(9000))[0][0]

    return float(quickly(run)(start)["x"][0])


def ours(optimizer: Optimizer) -> optax.GradientTransformation:
    return optimizer.build(
        {"x": Leaf((1,), ("embed",))}, 0.1, lambda count: 1 / jnp.sqrt(count + 1.0)
    )


B2 = 1 / (1 + C**2)


@pytest.mark.parametrize(
    ("transform", "right"),
    [
        (ours(AdamW(b1=0.0, b2=B2, weight_decay=0.0)), False),
        (
            optax.amsgrad(lambda count: 0.1 / jnp.sqrt(count + 1.0), b1=0.0, b2=B2),
            True,
        ),
        (ours(ADOPT(b1=0.0, b2=B2)), True),
        (ours(SGD()), True),
    ],
    ids=["adam", "amsgrad", "adopt", "sgd"],
)
def test_reddi_s_counterexample(transform: optax.GradientTransformation, right: bool) -> None:
    """Adam goes to the worst point, the others to the best."""
    assert where_it_ends(transform) == pytest.approx(-1 if right else 1, abs=0.1)


AUXILIARY = Auxiliary(eps=TINY)


@pytest.mark.parametrize(
    ("optimizer", "minds"),
    [
        (AdamW(eps=TINY), False),
        (AdamW(eps=1e-2), True),
        (Lion(weight_decay=0.1), False),
        (Signum(weight_decay=0.1), False),
        (LAMB(eps=TINY), False),
        (LARS(weight_decay=0.0), False),
        (LARS(), True),  # its decay stands beside the gradient
        (Muon(auxiliary=AUXILIARY), False),
        (Muon(auxiliary=replace(AUXILIARY, eps=1e-2)), True),
        (AdamW(eps=TINY, clip_norm=20.0), True),  # larger than the norms as they are
        (SGD(), True),
    ],
    ids=lambda x: getattr(x, "label", ""),
)
def test_a_scale_of_the_loss_changes_no_bit(optimizer: Optimizer, minds: bool) -> None:
    """By a power of two, which rounds nothing. Muon's guard, 1e-7, is lost beside its norms."""
    given = gradients(8)
    plain = end(optimizer, given)
    for power in (4, 10):
        other = end(optimizer, given, 2.0**power)
        equal = jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), plain, other))
        assert equal is not minds


def test_and_a_scale_that_is_no_power_of_two_does() -> None:
    """Negative control: what is compared are bits, and rounding shows in them."""
    given, optimizer = gradients(8), AdamW(eps=TINY)
    plain, other = end(optimizer, given), end(optimizer, given, 3.0)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4), plain, other))
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), plain, other))


def relative_steps(optimizer: Optimizer) -> dict[str, Any]:
    """Size of the first step over that of the parameter, for each layer of each leaf."""
    moved = jax.tree.map(jnp.subtract, end(optimizer, gradients(1)), PARAMS)

    def ratio(name: str, size: Callable[[Any], Any]) -> Any:
        return size(moved[name]) / size(PARAMS[name])

    layers = {n: np.linalg.norm(np.asarray(moved["stack"][n])) for n in (0, 1)}
    return {
        **{f"layer {n}": x / np.linalg.norm(PARAMS["stack"][n]) for n, x in layers.items()},
        "table": ratio("table", jnp.linalg.norm),
        "bias": ratio("bias", jnp.linalg.norm),
    }


def test_lamb_moves_each_layer_by_a_share_of_itself_and_adamw_does_not() -> None:
    found = relative_steps(LAMB(learning_rate=0.01))
    bias = found.pop("bias")
    assert np.allclose([*found.values()], 0.01, rtol=1e-4)
    assert not np.isclose(bias, 0.01, rtol=1e-2)  # which goes without
    assert not np.allclose([*relative_steps(AdamW()).values()], 1e-3, rtol=0.1)


def test_lars_moves_all_by_a_share_of_itself() -> None:
    found = relative_steps(LARS(weight_decay=0.0, coefficient=0.01))
    assert np.allclose([*found.values()], 0.01, rtol=1e-4)
    assert not np.allclose([*relative_steps(SGD()).values()], 0.1, rtol=0.1)
