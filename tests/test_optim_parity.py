"""Every optimizer against its author's code or torch's, stored by references/make_optim.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from lmjax.optim import SGD, AdamW, Lion, Muon, Optimizer
from lmjax.optim.recipe import Auxiliary
from lmjax.roles import Leaf

Tree = dict[str, np.ndarray]

TOLERANCE = 1e-10  # of parameters of order 1, at every step
VISIBLE = 1e-5  # what a wrong setting must exceed

LEAVES = {
    "up": Leaf((6, 10), ("embed", "mlp")),
    "down": Leaf((10, 4), ("mlp", "embed")),
    "vector": Leaf((7,), ("embed",)),
    "stacked": Leaf((3, 6, 10), ("layers", "embed", "mlp")),
}
SETTINGS: dict[str, Optimizer] = {
    "sgd": SGD(learning_rate=0.05, momentum=0.9),
    "sgd_nesterov": SGD(learning_rate=0.05, momentum=0.9, nesterov=True),
    "adamw": AdamW(learning_rate=0.01, weight_decay=0.1),
    "lion": Lion(learning_rate=0.003, weight_decay=0.1),
    "muon": Muon(learning_rate=0.02, weight_decay=0.1, newton_schulz_dtype="float64"),
}
WRONG: list[tuple[str, Optimizer]] = [
    ("sgd", SGD(learning_rate=0.05, momentum=0.901)),
    ("sgd", SGD(learning_rate=0.05, momentum=0.9, nesterov=True)),
    ("sgd_nesterov", SGD(learning_rate=0.05, momentum=0.9)),
    ("adamw", AdamW(learning_rate=0.01, weight_decay=0.1, b1=0.901)),
    ("adamw", AdamW(learning_rate=0.01, weight_decay=0.1, b2=0.99)),
    ("adamw", AdamW(learning_rate=0.01, weight_decay=0.1, eps=1e-4)),
    ("adamw", AdamW(learning_rate=0.01, weight_decay=0.101)),
    ("lion", Lion(learning_rate=0.003, weight_decay=0.1, b1=0.8)),
    ("lion", Lion(learning_rate=0.003, weight_decay=0.1, b2=0.95)),
    ("lion", Lion(learning_rate=0.003, weight_decay=0.101)),
    ("muon", Muon(weight_decay=0.1, newton_schulz_dtype="float64", momentum=0.951)),
    ("muon", Muon(weight_decay=0.1, newton_schulz_dtype="float64", nesterov=False)),
    ("muon", Muon(weight_decay=0.1, newton_schulz_dtype="float64", newton_schulz_steps=6)),
    ("muon", Muon(weight_decay=0.101, newton_schulz_dtype="float64")),
    ("muon", Muon(weight_decay=0.1, newton_schulz_dtype="bfloat16")),
    ("muon", Muon(weight_decay=0.1, newton_schulz_dtype="float64", auxiliary=Auxiliary(b2=0.99))),
]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def stored() -> dict[str, Tree]:
    """Stem -> leaf -> array: where they start, gradients [20, ...], one path [20, ...] each."""
    trees: dict[str, Tree] = {}
    with np.load(Path(__file__).parent / "references" / "optim.npz") as file:
        for key in file.files:
            stem, _, leaf = key.partition("/")
            trees.setdefault(stem, {})[leaf] = file[key]
    return trees


def build(optimizer: Optimizer, roles: dict[str, Leaf]) -> optax.GradientTransformation:
    return optimizer.build(roles, optimizer.learning_rate, lambda count: jnp.ones([]))


def path(
    transformation: optax.GradientTransformation, start: Tree, gradients: Tree
) -> dict[str, np.ndarray]:
    """Each leaf after every step, [20, ...]."""

    def step(carry: Any, gradient: Any) -> Any:
        params, state = carry
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def run(start: Any, gradients: Any) -> Any:
        return jax.lax.scan(step, (start, transformation.init(start)), gradients)[1]

    result = run(
        {name: jnp.asarray(x) for name, x in start.items()},
        {name: jnp.asarray(gradients[name]) for name in start},
    )
    assert all(x.dtype == jnp.float64 for x in result.values())
    return {name: np.asarray(x) for name, x in result.items()}


def distance(ours: Tree, theirs: Tree) -> float:
    """The largest difference in any entry of any leaf after any step."""
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs)


def only(tree: Tree, *names: str) -> Tree:
    return {name: tree[name] for name in names}


def distance_of(stored: dict[str, Tree], label: str, optimizer: Optimizer) -> float:
    roles = {name: LEAVES[name] for name in stored[label]}
    ours = path(build(optimizer, roles), only(stored["start"], *roles), stored["gradients"])
    return distance(ours, stored[label])


@pytest.mark.parametrize("label", SETTINGS)
def test_equals_the_reference_at_every_step(stored: dict[str, Tree], label: str) -> None:
    assert distance_of(stored, label, SETTINGS[label]) < TOLERANCE


@pytest.mark.parametrize(("label", "wrong"), WRONG)
def test_a_wrong_setting_shows(stored: dict[str, Tree], label: str, wrong: Optimizer) -> None:
    assert distance_of(stored, label, wrong) > VISIBLE


def test_muon_scale_of_a_transposed_matrix_shows(stored: dict[str, Tree]) -> None:
    """Newton-Schulz does not mind a transposition; the scale, from outputs / inputs, does."""
    roles = {"up": Leaf((10, 6), ("mlp", "embed"))}
    start = {"up": stored["start"]["up"].T}
    gradients = {"up": stored["gradients"]["up"].transpose(0, 2, 1)}
    ours = path(build(SETTINGS["muon"], roles), start, gradients)
    assert distance({"up": ours["up"].transpose(0, 2, 1)}, only(stored["muon"], "up")) > VISIBLE


def test_muon_of_layers_taken_for_one_matrix_shows(stored: dict[str, Tree]) -> None:
    roles = {"stacked": Leaf((3, 6, 10), ("heads", "head_dim", "mlp"))}
    ours = path(
        build(SETTINGS["muon"], roles), only(stored["start"], "stacked"), stored["gradients"]
    )
    assert distance(ours, only(stored["muon"], "stacked")) > VISIBLE


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_without_nesterov_equals_optax(stored: dict[str, Tree], nesterov: bool) -> None:
    """optax corrects the bias of the momentum, which the division by the norm takes back.

    But for nesterov, where it corrects the two terms apart: there the two must differ. Gradients
    are large, so that the two guards of that division (1e-7, 1e-8) do not count.
    """
    start = only(stored["start"], "up", "down")
    gradients = {name: 1e8 * stored["gradients"][name] for name in start}
    optimizer = Muon(
        learning_rate=0.02, weight_decay=0.1, nesterov=nesterov, newton_schulz_dtype="float64"
    )
    ours = path(build(optimizer, {name: LEAVES[name] for name in start}), start, gradients)
    theirs = path(optax.contrib.muon(0.02, weight_decay=0.1, nesterov=nesterov), start, gradients)
    assert (distance(ours, theirs) < TOLERANCE) is not nesterov


@pytest.mark.parametrize(("momentum", "equal"), [(0.9, True), (0.91, False)])
def test_sgd_on_a_parabola_by_hand(momentum: float, equal: bool) -> None:
    """On w^2 from 1: velocities 2, 3.796 and 5.404808."""
    transformation = build(
        SGD(learning_rate=0.001, momentum=momentum), {"w": Leaf((1,), ("embed",))}
    )
    params: Any = {"w": jnp.ones([1])}
    state, found = transformation.init(params), []
    for _ in range(3):
        updates, state = transformation.update({"w": 2 * params["w"]}, state, params)
        params = optax.apply_updates(params, updates)
        found.append(float(params["w"][0]))
    assert (found == pytest.approx([0.998, 0.994204, 0.988799192], abs=1e-12)) is equal
