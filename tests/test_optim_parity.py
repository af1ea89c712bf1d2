"""Every optimizer against its authors' code or torch's, stored by references/make_optim*.py."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim_parity_rows import ADAMW, ROWS, TURNED
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
    walk,
)

from lmjax.optim import LBFGS, AdamW, MuonOptax, Optimizer, SophiaH
from lmjax.optim.sides import Sides
from lmjax.parts import alternatives
from lmjax.roles import Leaf


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@functools.cache
def distances(label: str) -> tuple[list[float], list[float]]:
    """(of the right setting, at the parameters and where it is evaluated; of the wrong ones).

    The wrong ones move two leaves only, which is enough to see them. Compiled together, and with
    little optimisation, all rows take half the time.
    """
    row, theirs = ROWS[label], stored()[label]
    two = [name for name in ("up", "vector", "square") if name in theirs]

    def everything(start: Tree, gradients: Tree) -> tuple[Any, list[Any]]:
        def one(optimizer: Optimizer, gradient: Callable[[Any, Any], Any], start: Tree) -> Any:
            def seen(state: Any, params: Any) -> Any:
                return params, optimizer.evaluation_params(state, params)

            transformation = build(optimizer, only(LEAVES, *start), row.factor)
            return walk(transformation, start, gradients, gradient, seen)

        few = only(start, *two)
        wrong = [one(optimizer, row.gradient, few) for optimizer in row.wrong]
        if row.wrong_gradient is not None:
            wrong.append(one(row.right, row.wrong_gradient, few))
        return one(row.right, row.gradient, start), wrong

    start = only(stored()["start"], *theirs)
    (params, evaluated), wrong = quickly(everything)(start, stored()["gradients"])
    right = [distance(params, theirs)]
    if f"{label}_x" in stored():  # after each step but the last
        x = stored()[f"{label}_x"]
        right.append(distance({name: path[:-1] for name, path in evaluated.items()}, x))
    return right, [distance(params, only(theirs, *two)) for params, _ in wrong]


@pytest.mark.parametrize("label", ROWS)
def test_equals_the_reference_at_every_step(label: str) -> None:
    assert max(distances(label)[0]) < TOLERANCE


@pytest.mark.parametrize("label", ROWS)
def test_a_wrong_setting_shows(label: str) -> None:
    wrong = distances(label)[1]
    assert len(wrong) >= len(ROWS[label].wrong) > 0
    assert min(wrong) > VISIBLE


def test_every_optimizer_is_compared_with_the_commit_that_it_names() -> None:
    """Those that name optax are compared with the one that is installed: beside_optax, wrapped."""
    ours = {o for o in alternatives(Optimizer).values() if o.__module__.startswith("lmjax.")}
    theirs = {o for o in ours if o.reference and o.reference.repository == "google-deepmind/optax"}
    assert theirs == {MuonOptax, SophiaH, LBFGS}
    assert {type(row.right) for row in ROWS.values()} == ours - theirs
    sources = set(stored()["sources"][""].tolist())
    for cls in ours - theirs:
        assert cls.reference is not None
        assert f"{cls.reference.repository}@{cls.reference.commit}" in sources


def test_schedule_free_is_evaluated_elsewhere_than_where_it_steps() -> None:
    """Negative control of the distance at x, which is part of the test above."""
    for label in ("schedule_free", "schedule_free_falling"):
        x, y = stored()[f"{label}_x"], stored()[label]
        assert distance({name: jnp.asarray(path[:-1]) for name, path in y.items()}, x) > VISIBLE
        assert len(distances(label)[0]) == 2


@pytest.mark.parametrize("given", [True, False])
def test_soap_on_oblong_matrices_from_the_bases_that_the_authors_chose(given: bool) -> None:
    """The first gradient leaves the longer basis open; without theirs (False) the paths part."""
    roles = only(LEAVES, *stored()["soap_oblong"])
    start, gradients = only(stored()["start"], *roles), only(stored()["gradients"], *roles)
    transformation = build(TURNED, roles)
    first = {name: jnp.asarray(x[0]) for name, x in gradients.items()}
    updates, state = quickly(transformation.update)(first, transformation.init(start), start)
    assert all(np.all(np.asarray(u) == 0) for u in updates.values())
    if given:
        inputs, outputs = stored()["basis_inputs"], stored()["basis_outputs"]
        bases = {name: Sides(inputs[name], outputs[name]) for name in roles}
        state["direction"] = state["direction"]._replace(bases=bases)
    rest = {name: x[1:] for name, x in gradients.items()}
    ours = quickly(functools.partial(walk, transformation))(start, rest, state=state)
    theirs = {name: x[1:] for name, x in stored()["soap_oblong"].items()}
    assert (distance(ours, theirs) < TOLERANCE) is given


@pytest.mark.parametrize(("optimizer", "turns"), [(TURNED, True), (AdamW(**ADAMW), False)])
def test_soap_turns_with_its_gradients_and_adamw_does_not(
    optimizer: Optimizer, turns: bool
) -> None:
    """Gradients U g V' give steps U s V', whatever the bases that parameters are written in."""
    optimizer = replace(optimizer, weight_decay=0.0)
    rng = np.random.default_rng(7)
    u, v = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    start, gradients = {"square": np.zeros((5, 5))}, only(stored()["gradients"], "square")
    transformation = build(optimizer, only(LEAVES, "square"))
    plain = path(transformation, start, gradients)["square"]
    turned = path(transformation, start, {"square": u @ gradients["square"] @ v.T})["square"]
    difference = float(np.abs(turned - u @ plain @ v.T).max())
    assert difference < 1e-9 if turns else difference > 1e-3


def test_muon_scale_of_a_transposed_matrix_shows() -> None:
    """Newton-Schulz does not mind a transposition; the scale, from outputs / inputs, does."""
    roles = {"up": Leaf((7, 4), ("mlp", "embed"))}
    start = {"up": stored()["start"]["up"].T}
    gradients = {"up": stored()["gradients"]["up"].transpose(0, 2, 1)}
    ours = path(build(ROWS["muon"].right, roles), start, gradients)
    assert distance({"up": ours["up"].transpose(0, 2, 1)}, only(stored()["muon"], "up")) > VISIBLE


@pytest.mark.parametrize(
    "label",
    ["muon", "adafactor", "mars", "soap", "cautious", "hyperball", "adam_mini", "mars_lion"],
)
def test_layers_taken_for_one_matrix_show(label: str) -> None:
    name = "squares" if label == "soap" else "stacked"
    roles = {name: replace(LEAVES[name], axes=("heads", "head_dim", "mlp"))}
    row, start = ROWS[label], only(stored()["start"], name)
    gradients = {name: row.gradient(None, stored()["gradients"][name])}
    ours = path(build(row.right, roles), start, gradients)
    assert distance(ours, only(stored()[label], name)) > VISIBLE
