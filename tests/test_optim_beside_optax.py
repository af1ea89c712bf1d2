"""Where optax has a rule too: which of ours are its, whole, and which differ, by what."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest
from optim_paths import LEAVES, TOLERANCE, build, distance, only, path, stored

from lmjax.optim import Adafactor, Momentum, Muon, MuonOptax
from lmjax.roles import Leaf

MUON: dict[str, Any] = {"weight_decay": 0.1, "newton_schulz_dtype": "float64"}
FACTOR = Adafactor(learning_rate=0.01, factored_from=1)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_without_nesterov_equals_optax(nesterov: bool) -> None:
    """optax corrects the bias of the momentum, which the division by the norm takes back.

    But for nesterov, where it corrects the two terms apart: there the two must differ. Gradients
    are large, so that the two guards of that division (1e-7, 1e-8) do not count.
    """
    start = only(stored()["start"], "up", "down")
    gradients = {name: 1e8 * stored()["gradients"][name] for name in start}
    ours = path(build(Muon(**MUON, nesterov=nesterov), only(LEAVES, *start)), start, gradients)
    theirs = path(optax.contrib.muon(0.02, weight_decay=0.1, nesterov=nesterov), start, gradients)
    assert (distance(ours, theirs) < TOLERANCE) is not nesterov


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_optax_is_optax_s_as_a_whole(nesterov: bool) -> None:
    """optax.contrib.muon, its Adam for vectors included, but that its nesterov changes Adam too."""
    names = ("up", "down") if nesterov else ("up", "down", "vector")
    start = only(stored()["start"], *names)
    theirs = path(
        optax.contrib.muon(
            0.02, weight_decay=0.1, nesterov=nesterov, adam_b2=0.95, adam_learning_rate=3e-3
        ),
        start,
        stored()["gradients"],
    )
    for momentum, equal in ((0.95, True), (0.951, False)):
        optimizer = MuonOptax(weight_decay=0.1, nesterov=nesterov, momentum=momentum)
        ours = path(build(optimizer, only(LEAVES, *names)), start, stored()["gradients"])
        assert (distance(ours, theirs) < TOLERANCE) is equal


@pytest.mark.parametrize(("exponent", "equal"), [(0.8, True), (0.81, False)])
def test_adafactor_of_plain_matrices_is_optax_s(exponent: float, equal: bool) -> None:
    """With a decay in float64, which optax's own is not."""
    start = only(stored()["start"], "up", "down", "vector")
    theirs = optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=0.8,
            min_dim_size_to_factor=1,
            decay_rate_fn=lambda step, exponent: 1 - jnp.asarray(step + 1, float) ** -exponent,
        ),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
        optax.scale(-0.01),
    )
    optimizer = replace(FACTOR, decay_exponent=exponent)
    ours = path(build(optimizer, only(LEAVES, *start)), start, stored()["gradients"])
    found = distance(ours, path(theirs, start, stored()["gradients"]))
    assert (found < TOLERANCE) is equal


@pytest.mark.parametrize(("momentum", "equal"), [(0.9, True), (0.91, False)])
def test_momentum_on_a_parabola_by_hand(momentum: float, equal: bool) -> None:
    """On w^2 from 1: velocities 2, 3.796 and 5.404808."""
    optimizer = Momentum(learning_rate=0.001, momentum=momentum)
    transformation = build(optimizer, {"w": Leaf((1,), ("embed",))})
    params: Any = {"w": jnp.ones([1])}
    state, found = transformation.init(params), []
    for _ in range(3):
        updates, state = transformation.update({"w": 2 * params["w"]}, state, params)
        params = optax.apply_updates(params, updates)
        found.append(float(params["w"][0]))
    assert (found == pytest.approx([0.998, 0.994204, 0.988799192], abs=1e-12)) is equal
