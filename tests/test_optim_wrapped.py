"""Optimizers of optax: the two that it alone is the reference of, and where ours differ from it."""

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from optim_parity_rows import ADAMW, ROWS
from optim_paths import (
    LEAVES,
    TOLERANCE,
    VISIBLE,
    Tree,
    build,
    distance,
    only,
    path,
    quickly,
    stored,
)

from lmjax.describe import describe, to_text
from lmjax.errors import FieldError
from lmjax.experiment import Experiment
from lmjax.optim import LBFGS, DAdaptAdamW, DMuon, Muon, Optimizer, Prodigy, RAdam, SophiaH
from lmjax.roles import Leaf


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def bowl(params: Any) -> Any:
    """Convex but not quadratic, and not separable, so that its Hessian is full and changes."""
    every = jnp.concatenate([jnp.ravel(p) for p in params.values()])
    bent = jnp.cos(jnp.outer(jnp.arange(every.size), jnp.arange(every.size) + 1.0))
    return jnp.sum(jnp.log(jnp.cosh(bent @ every))) + 0.05 * jnp.sum(every**4)


def descend(
    transformation: optax.GradientTransformation,
    start: Any,
    steps: int,
    loss: Callable[[Any], Any] = bowl,
    **more: Any,
) -> Any:
    """Each leaf after every step, [steps, ...], with all that a step hands over."""
    transformation = optax.with_extra_args_support(transformation)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grad, "value_fn": loss, **more}
        updates, state = transformation.update(grad, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return quickly(lambda p: jax.lax.scan(step, (p, transformation.init(p)), None, steps)[1])(start)


def same_path(ours: Optimizer, theirs: Tree) -> bool:
    start = only(stored()["start"], "up", "vector")
    oracle = SimpleNamespace(value_and_grad=jax.value_and_grad(bowl))
    mine = descend(
        build(ours, only(LEAVES, *start)),
        start,
        20,
        value_fn=lambda params, oracle=None: bowl(params),
        oracle=oracle,
    )
    return distance(mine, theirs) < TOLERANCE


@pytest.fixture(scope="module")
def of_optax() -> dict[str, Tree]:
    """The paths of optax's two, compiled once."""
    sophia = optax.contrib.sophia(0.01, weight_decay=0.0, gamma=0.02, update_interval=3)
    with jax.enable_x64(True):
        start = only(stored()["start"], "up", "vector")
        return {
            "sophia": descend(sophia, start, 20, obj_fn=bowl),
            "lbfgs": descend(optax.lbfgs(), start, 20),
        }


SOPHIA = SophiaH(learning_rate=0.01, weight_decay=0.0, refresh_every=3, gamma=0.02)


@pytest.mark.parametrize(
    ("ours", "equal"),
    [
        (SOPHIA, True),
        (dataclasses.replace(SOPHIA, b1=0.96), False),
        (dataclasses.replace(SOPHIA, b2=0.98), False),
        (dataclasses.replace(SOPHIA, gamma=0.021), False),
        (dataclasses.replace(SOPHIA, threshold=0.9), False),
        (dataclasses.replace(SOPHIA, refresh_every=4), False),
        (dataclasses.replace(SOPHIA, eps=0.1), False),
    ],
)
def test_sophia_h_is_optax_s(ours: SophiaH, equal: bool, of_optax: dict[str, Tree]) -> None:
    """From the same key, that of optax's Hutchinson by default."""
    assert same_path(ours, of_optax["sophia"]) is equal


@pytest.mark.parametrize("off_diagonal", [0.0, 0.5])
def test_sophia_h_s_estimate_of_a_diagonal_hessian_is_exact(off_diagonal: float) -> None:
    """Signs square to 1; what is off the diagonal stays as noise."""
    hessian = jnp.diag(jnp.arange(1.0, 6.0)) + off_diagonal * (1 - jnp.eye(5))

    def loss(params: Any) -> Any:
        return 0.5 * params["vector"] @ hessian @ params["vector"]

    start = {"vector": jnp.ones(5)}
    transformation = build(SOPHIA, only(LEAVES, "vector"))
    oracle = SimpleNamespace(value_and_grad=jax.value_and_grad(loss))
    _, state = quickly(lambda g, s, p: transformation.update(g, s, p, oracle=oracle))(
        jax.grad(loss)(start), transformation.init(start), start
    )
    found = state["direction"][0].nu["vector"] / (1 - SOPHIA.b2)
    assert np.allclose(found, jnp.arange(1.0, 6.0)) is (off_diagonal == 0)


@pytest.mark.parametrize(
    ("ours", "equal"),
    [(LBFGS(), True), (LBFGS(memory=3), False), (LBFGS(learning_rate=0.5), False)],
)
def test_lbfgs_is_optax_s(ours: LBFGS, equal: bool, of_optax: dict[str, Tree]) -> None:
    assert same_path(ours, of_optax["lbfgs"]) is equal


def rosenbrock(params: Any) -> Any:
    x = params["vector"]
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_lbfgs_finds_the_minimum_of_rosenbrock_s_valley_and_gradient_descent_does_not() -> None:
    start, roles = {"vector": jnp.full([5], -0.5)}, only(LEAVES, "vector")
    lbfgs = descend(build(LBFGS(), roles), start, 60, rosenbrock)["vector"][-1]
    assert np.allclose(lbfgs, 1, atol=1e-8)
    plain = descend(optax.sgd(1e-3), start, 60, rosenbrock)["vector"][-1]
    assert np.max(np.abs(plain - 1)) > 0.1


@pytest.mark.parametrize("changed", [{"weight_decay": 0.1}, {"clip_norm": 1.0}])
def test_lbfgs_refuses_what_bends_the_gradient(changed: dict[str, float]) -> None:
    LBFGS().validate()
    with pytest.raises(FieldError, match="must be 0: the line search"):
        LBFGS(**changed).validate()


def test_describe_tells_what_lbfgs_is_for(tiny_mlp: Experiment) -> None:
    for optimizer, told in ((LBFGS(), True), (Muon(), False)):
        text = to_text(describe(dataclasses.replace(tiny_mlp, optimizer=optimizer)))
        assert ("optimizer:lbfgs: for one fixed batch, without dropout" in text) is told


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(Prodigy(), optax.contrib.prodigy()), (DAdaptAdamW(), optax.contrib.dadapt_adamw())],
    ids=["prodigy", "dadapt"],
)
def test_gradients_of_zero_are_a_rest_for_ours_and_no_number_for_optax(
    ours: Optimizer, theirs: Any
) -> None:
    start = only(stored()["start"], "vector")
    zeros = {"vector": jnp.zeros([20, 5])}
    mine = path(build(ours, only(LEAVES, "vector")), start, zeros)["vector"]
    assert np.array_equal(mine, np.broadcast_to(start["vector"], mine.shape))
    assert np.all(np.isnan(path(theirs, start, zeros)["vector"][1:]))


def decayed(params: Any) -> Any:
    return {name: name != "vector" for name in params}


DIFFERENT: dict[str, tuple[Any, float, float]] = {
    # of our reference and optax's function: how far apart they are, at least and at most
    "radam_eps": (None, 1e-10, 1e-8),  # ours, which is optax's, at the eps of both
    "rmsprop": (optax.rmsprop(0.01), 5e-7, 1e-5),
    "adan": (optax.adan(0.01, eps_root=0.0, weight_decay=0.1, mask=decayed), 0.05, 0.06),
    "lars": (
        optax.lars(0.05, 0.1, decayed, trust_coefficient=1.0),
        0.3,
        1.0,
    ),
}


@pytest.mark.parametrize("label", DIFFERENT)
def test_optax_differs_from_the_reference_by_what_the_docstrings_say(label: str) -> None:
    """And with that the reference's own row shows that ours does not."""
    theirs, least, most = DIFFERENT[label]
    names = ("up", "down", "vector")
    start = only(stored()["start"], *names)
    theirs = theirs or build(RAdam(**ADAMW), only(LEAVES, *names))
    found = distance(path(theirs, start, stored()["gradients"]), only(stored()[label], *names))
    assert least < found < most


@pytest.mark.parametrize("label", ["lamb", "lars", "d_muon"])
def test_layers_taken_for_one_matrix_show(label: str) -> None:
    roles = {"stacked": dataclasses.replace(LEAVES["stacked"], axes=("heads", "head_dim", "mlp"))}
    start, gradients = only(stored()["start"], "stacked"), stored()["gradients"]
    ours = path(build(ROWS[label].right, roles), start, gradients)
    assert distance(ours, only(stored()[label], "stacked")) > VISIBLE


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32)])
def test_d_muon_s_steps_have_one_size_whatever_the_shape(shape: tuple[int, int]) -> None:
    leaf = {"w": Leaf(shape, ("embed", "mlp"))}
    gradient = {"w": jnp.asarray(np.random.default_rng(0).normal(size=shape))}

    def size(optimizer: Optimizer) -> float:
        transformation = optimizer.build(leaf, 1.0, lambda count: 1.0)
        zeros = jax.tree.map(jnp.zeros_like, gradient)
        updates, _ = quickly(transformation.update)(gradient, transformation.init(zeros), zeros)
        return float(jnp.sqrt(jnp.mean(updates["w"] ** 2)))

    assert 0.15 < size(DMuon(newton_schulz_dtype="float64")) < 0.23
    assert not 0.15 < size(Muon(newton_schulz_dtype="float64")) < 0.23
