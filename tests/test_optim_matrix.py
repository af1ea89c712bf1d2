"""What matrix methods keep and what they do not: scales by kind of layer, rotations, sizes."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim_parity_matrix import BALL, LEARNED, MUON, PART, UNGRAFTED, WHITE
from optim_paths import (
    LEAVES,
    TOLERANCE,
    VISIBLE,
    build,
    distance,
    only,
    path,
    quickly,
    stored,
    walk,
)

from lmjax.errors import FieldError
from lmjax.optim import Kron, Muon, NorMuon, Optimizer, Scion, Shampoo
from lmjax.parts import validate
from lmjax.roles import Leaf

KERNEL = Leaf((3, 3, 2, 4), ("height", "width", "conv_in", "conv_out"))


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("axes", "equal"),
    [
        ({"up": ("embed", "vocab"), "down": ("vocab", "embed")}, True),
        ({"up": ("embed", "mlp"), "down": ("vocab", "embed")}, False),
        ({"up": ("embed", "vocab"), "down": ("mlp", "embed")}, False),
    ],
)
def test_scion_of_a_head_and_an_embedding(axes: dict[str, tuple[str, str]], equal: bool) -> None:
    roles = {name: replace(LEAVES[name], axes=names) for name, names in axes.items()}
    start = only(stored()["start"], *roles)
    ours = path(build(BALL, roles), start, stored()["gradients"])
    assert (distance(ours, stored()["scion_roles"]) < TOLERANCE) is equal


@pytest.mark.parametrize("radius", ["head_radius", "embedding_radius"])
def test_another_radius_of_scion_shows(radius: str) -> None:
    roles = {
        name: replace(LEAVES[name], axes=names)
        for name, names in {"up": ("embed", "vocab"), "down": ("vocab", "embed")}.items()
    }
    other = replace(BALL, **{radius: 1.01 * getattr(BALL, radius)})
    ours = path(build(other, roles), only(stored()["start"], *roles), stored()["gradients"])
    assert distance(ours, stored()["scion_roles"]) > VISIBLE


@pytest.mark.parametrize("windowed", [True, False])
def test_scion_of_a_convolution(windowed: bool) -> None:
    """Its scale is of channels; when not `windowed`, the window is taken for more channels."""
    leaf = KERNEL if windowed else Leaf((3, 6, 4), ("heads", "head_dim", "mlp"))

    def laid(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-4], *leaf.shape)

    kernels = {stem: stored()[stem]["kernel"] for stem in ("conv_start", "conv_gradients")}
    start, gradients = ({"kernel": laid(x)} for x in kernels.values())
    ours = path(build(BALL, {"kernel": leaf}), start, gradients)
    far = distance(ours, {"kernel": laid(stored()["scion_conv"]["kernel"])})
    assert (far < TOLERANCE) is windowed


def test_scion_constrained_refuses_a_decay_and_stays_in_its_ball() -> None:
    with pytest.raises(FieldError, match="must be 0 while constrained"):
        validate(Scion(weight_decay=0.1))
    validate(Scion(weight_decay=0.1, constrained=False))
    for constrained in (True, False):
        optimizer = replace(BALL, learning_rate=0.3, radius=0.1, constrained=constrained)
        start = only(stored()["start"], "square")
        # One direction throughout, so that an unconstrained path leaves the ball.
        gradients = {"square": np.repeat(stored()["gradients"]["square"][:1], 20, axis=0)}
        end = path(build(optimizer, only(LEAVES, "square")), start, gradients)["square"][-1]
        largest = float(np.linalg.norm(end, 2))
        assert (largest < 1.3 * 0.1 + 0.01) is constrained


PLAIN: dict[str, Any] = {**MUON, "weight_decay": 0.0}
WHITE_ONCE = Shampoo(b1=0.0, b2=0.0, refresh_every=1, grafting="none")


@pytest.mark.parametrize(
    ("optimizer", "inputs", "outputs"),
    [
        (Muon(**PLAIN), True, True),
        (NorMuon(**PLAIN), True, False),  # a neuron is an output, and rotated it is another
        (replace(BALL, constrained=False), True, True),
        (replace(LEARNED, weight_decay=0.0), False, False),  # triangles, and noise, know the basis
        (replace(UNGRAFTED, weight_decay=0.0), True, True),
        (replace(WHITE, weight_decay=0.0), False, False),  # Adam's size knows the basis
        (replace(PART, weight_decay=0.0), False, False),  # so does the choice of a part,
        (replace(PART, weight_decay=0.0, fraction=1.0), True, True),  # but not of all
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_steps_turn_with_gradients(optimizer: Optimizer, inputs: bool, outputs: bool) -> None:
    """Gradients U g V' give steps U s V', whatever the bases that parameters are written in."""
    q, one = np.linalg.qr(np.random.default_rng(7).normal(size=(5, 5)))[0], np.eye(5)
    start, gradients = {"square": np.zeros((5, 5))}, stored()["gradients"]["square"]
    transformation = build(optimizer, only(LEAVES, "square"))
    run = quickly(functools.partial(walk, transformation))
    plain = run(start, {"square": gradients})["square"]
    for left, right, turns in ((q, one, inputs), (one, q, outputs)):
        turned = run(start, {"square": left @ gradients @ right.T})["square"]
        far = float(np.abs(turned - left @ plain @ right.T).max())
        assert far < 1e-9 if turns else far > 1e-3


@pytest.mark.parametrize(("optimizer", "equal"), [(NorMuon(**PLAIN), True), (Muon(**PLAIN), False)])
def test_normuon_s_neurons_step_equally_far_at_first(optimizer: Optimizer, equal: bool) -> None:
    """And as far together as Muon's."""
    start, gradients = {"square": np.zeros((5, 5))}, only(stored()["gradients"], "square")
    first = path(build(optimizer, only(LEAVES, "square")), start, gradients)["square"][0]
    muon = path(build(Muon(**PLAIN), only(LEAVES, "square")), start, gradients)["square"][0]
    sizes = np.linalg.norm(first, axis=0)
    assert bool(sizes.max() / sizes.min() < 1 + 1e-6) is equal
    assert np.isclose(np.linalg.norm(first), np.linalg.norm(muon), rtol=1e-6)


def first_direction(optimizer: Optimizer, name: str, gradient: np.ndarray) -> np.ndarray:
    """Of the first step from zero."""
    transformation = build(replace(optimizer, learning_rate=1.0), only(LEAVES, name))
    first = path(transformation, {name: np.zeros_like(gradient)}, {name: gradient[None]})
    return -np.asarray(first[name][0])


@pytest.mark.parametrize("name", ["up", "down", "square", "stacked"])
def test_shampoo_of_one_gradient_is_its_polar_factor(name: str) -> None:
    """U V' of g = U S V', to which five steps of Newton-Schulz come no nearer than a hundredth.

    Rounding counts as the square of the condition, so the gradient of the least is taken.
    """
    gradient = min(stored()["gradients"][name], key=lambda g: np.max(np.linalg.cond(g)))
    u, _, v = np.linalg.svd(gradient, full_matrices=False)

    def far(optimizer: Optimizer) -> float:
        return float(np.abs(first_direction(optimizer, name, gradient) - u @ v).max())

    assert far(WHITE_ONCE) < 1e-12
    assert far(replace(WHITE_ONCE, power=0.251)) > 1e-4
    assert far(replace(WHITE_ONCE, refresh_every=2)) > 0.1  # the gradient itself
    assert far(Muon(**PLAIN, nesterov=False)) > 0.01


@pytest.mark.parametrize(("fraction", "rows"), [(0.25, 1), (0.26, 2), (1.0, 4)])
def test_dion2_moves_the_largest_rows_and_forgets_part_of_them(fraction: float, rows: int) -> None:
    optimizer = replace(PART, weight_decay=0.0, fraction=fraction, ef_decay=0.5)
    gradient = stored()["gradients"]["up"][0]
    largest = np.argsort(-np.abs(gradient).sum(axis=1))[:rows]
    moved = first_direction(optimizer, "up", gradient)
    assert sorted(np.flatnonzero(np.abs(moved).sum(axis=1))) == sorted(largest)
    values = np.linalg.svd(moved[largest], compute_uv=False) / (7 / 4) ** 0.5
    assert np.all(np.abs(values - 1) < 0.15)  # as near as five quintics come
    transformation = build(optimizer, only(LEAVES, "up"))
    first = {"up": jnp.asarray(gradient)}
    start = jax.tree.map(jnp.zeros_like, first)
    _, state = transformation.update(first, transformation.init(start), start)
    left = np.where(np.isin(np.arange(4), largest)[:, None], 0.5 * gradient, gradient)
    assert np.allclose(state["direction"].momentum["up"], left, rtol=1e-12)


def test_kron_balances_its_factors_when_the_authors_do() -> None:
    """Begun ten steps before their key says so; a step off, it does so at another time."""
    roles = only(LEAVES, *stored()["kron_balanced"])
    start, gradients = only(stored()["start"], *roles), only(stored()["gradients"], *roles)
    transformation = build(LEARNED, roles)

    @quickly
    def begun(step: Any) -> Any:
        state = transformation.init(jax.tree.map(jnp.asarray, start))
        state["direction"] = state["direction"]._replace(step=step)
        return walk(transformation, start, gradients, state=state)

    (step,) = stored()["kron_from"]["step"]
    for offset, equal in ((0, True), (1, False)):
        ours = begun(jnp.asarray(step + offset))
        assert (distance(ours, stored()["kron_balanced"]) < TOLERANCE) is equal


def test_kron_refuses_a_least_probability_above_the_largest() -> None:
    with pytest.raises(FieldError, match="must be at most max_probability"):
        validate(Kron(max_probability=0.5, min_probability=0.6))
    validate(Kron(max_probability=0.5, min_probability=0.5))
