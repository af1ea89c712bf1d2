"""What wraps any direction: cautious steps, hyperball, outer steps; and what goes with what."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optim_deviations
import pytest
from optim_paths import LEAVES, TOLERANCE, VISIBLE, build, distance, only, path, quickly, stored

from lmjax.errors import FieldError
from lmjax.optim import (
    MARS,
    SGD,
    Adafactor,
    AdamW,
    Lion,
    Lookahead,
    Muon,
    Optimizer,
    OuterNesterov,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Scion,
)
from lmjax.parts import validate
from lmjax.roles import Leaf

FUSED = Leaf((2, 8, 2, 3, 4), ("layers", "embed", "heads", "qkv", "head_dim"))
ROLES = {
    "qkv": FUSED,
    "head": Leaf((8, 5), ("embed", "vocab")),
    "table": Leaf((5, 8), ("vocab", "embed")),
    "bias": Leaf((2, 8), ("layers", "embed")),
}
UNDECAYED = AdamW(learning_rate=0.05, weight_decay=0.0)


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def norms(name: str, x: Any) -> np.ndarray:
    return np.linalg.norm(np.asarray(ROLES[name].to_matrices(x), float), axis=(-2, -1))


def after(optimizer: Optimizer, steps: int) -> tuple[Any, Any]:
    """(parameters at the start, after so many steps of noise), in float32."""
    transform, rng = build(optimizer, ROLES), np.random.default_rng(7)

    def drawn(*more: int) -> dict[str, Any]:
        shapes = {name: (*more, *leaf.shape) for name, leaf in ROLES.items()}
        return {name: jnp.asarray(rng.normal(size=x), jnp.float32) for name, x in shapes.items()}

    def step(carry: Any, noise: Any) -> Any:
        params, state = carry
        updates, state = transform.update(noise, state, params)
        return (optax.apply_updates(params, updates), state), None

    def walk(start: Any, noise: Any) -> Any:
        return jax.lax.scan(step, (start, transform.init(start)), noise)[0][0]

    start = drawn()
    return start, quickly(walk)(start, drawn(steps))


@pytest.mark.parametrize(
    ("optimizer", "kept"),
    [
        (replace(UNDECAYED, hyperball=True), ("qkv", "head")),
        (Muon(hyperball=True), ("qkv",)),
        (MARS(hyperball=True, cautious=True), ("qkv", "head")),
        (SGD(hyperball=True, clip_norm=1.0), ("qkv", "head")),
        (UNDECAYED, ()),
    ],
    ids=["adamw", "muon", "mars", "sgd", "none"],
)
def test_hyperball_keeps_the_norm_of_each_matrix(optimizer: Optimizer, kept: Any) -> None:
    """To rounding, over 200 steps: of each layer, q, k and v; of the others it must change."""
    validate(optimizer)
    start, end = after(optimizer, 200)
    for name in ("qkv", "head", "table"):
        ratio = norms(name, end[name]) / norms(name, start[name])
        assert (
            np.all(np.abs(ratio - 1) < 3e-6) if name in kept else np.all(np.abs(ratio - 1) > 1e-3)
        )
    assert not np.allclose(end["qkv"], start["qkv"], atol=0.1)


def test_a_step_of_hyperball_turns_by_its_rate() -> None:
    """A direction at right angles to the matrix turns it by the arc tangent of the rate."""
    roles = {"w": Leaf((2, 2), ("embed", "mlp"))}
    p, g = {"w": jnp.eye(2)}, {"w": 100 * jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    for rate, turns in ((0.25, True), (0.3, False)):
        transform = build(SGD(learning_rate=rate, hyperball=True), roles)
        updates, _ = transform.update(g, transform.init(p), p)
        cosine = jnp.sum(p["w"] * (p["w"] + updates["w"])) / 2
        assert bool(np.isclose(np.arccos(cosine), np.arctan(0.25), atol=1e-4)) is turns


def test_zeros_are_safe_under_hyperball() -> None:
    """No gradient moves nothing, and a matrix of zeros stays where it is."""
    transform = build(replace(UNDECAYED, hyperball=True), ROLES)
    for scale, gradient in ((1.0, 0.0), (0.0, 1.0)):
        p = {name: jnp.full(leaf.shape, 0.3 * scale) for name, leaf in ROLES.items()}
        g = {name: jnp.full(leaf.shape, gradient) for name, leaf in ROLES.items()}
        updates, _ = transform.update(g, transform.init(p), p)
        assert np.all(np.asarray(updates["qkv"]) == 0)
        assert np.all(np.asarray(updates["table"]) == 0) == (gradient == 0)


@pytest.mark.parametrize("careful", [True, False])
@pytest.mark.parametrize("optimizer", [UNDECAYED, Lion(), Muon()], ids=lambda o: o.label)
def test_cautious_steps_are_never_against_the_gradient(optimizer: Any, careful: bool) -> None:
    optimizer = replace(optimizer, cautious=careful)
    roles = {"w": Leaf((2, 6, 6), ("layers", "embed", "mlp"))}
    rng = np.random.default_rng(3)
    p = {"w": jnp.zeros((2, 6, 6))}
    transform = build(optimizer, roles)
    state = transform.init(p)
    update = quickly(transform.update)
    g = step = p
    for _ in range(3):
        g = {"w": jnp.asarray(rng.normal(size=(2, 6, 6)), jnp.float32)}
        step, state = update(g, state, p)
    agree = np.asarray(-step["w"] * g["w"])
    assert bool(np.all(agree >= 0)) is careful
    if (
        careful and optimizer.label == "lion"
    ):  # all of one size: a layer's mean size stays as it was
        sizes = np.abs(np.asarray(step["w"])).mean((1, 2))
        assert np.allclose(sizes, optimizer.learning_rate, rtol=1e-5)


@pytest.mark.parametrize(("share", "equal"), [(0.8, True), (0.81, False)])
def test_lookahead_is_optax_s(float64: None, share: float, equal: bool) -> None:
    start, gradients = only(stored()["start"], "up", "vector"), stored()["gradients"]
    inner = AdamW(learning_rate=0.01, weight_decay=0.0)
    ours = path(
        build(replace(inner, outer=Lookahead(every=3, share=share)), only(LEAVES, *start)),
        start,
        gradients,
    )
    theirs = optax.lookahead(optax.adam(0.01), sync_period=3, slow_step_size=0.8)
    params = optax.LookaheadParams.init_synced(start)
    state, walked = theirs.init(params), []
    update = quickly(theirs.update)
    for step in range(20):
        given = {name: jnp.asarray(gradients[name][step]) for name in start}
        updates, state = update(given, state, params)
        params = optax.apply_updates(params, updates)
        walked.append(params.fast)
    seen = {name: np.stack([np.asarray(x[name]) for x in walked]) for name in start}
    far = distance(ours, seen)
    assert far < TOLERANCE if equal else far > VISIBLE


@pytest.mark.parametrize("outer", [Lookahead(every=3), OuterNesterov(every=3)])
def test_the_model_is_evaluated_at_the_slow_parameters(outer: Any) -> None:
    """Which stand still between two outer steps, at each of which the fast ones join them."""
    optimizer = replace(UNDECAYED, outer=outer)
    transform = build(optimizer, ROLES)
    params = {name: jnp.ones(leaf.shape) for name, leaf in ROLES.items()}
    state, seen = transform.init(params), []
    update = quickly(transform.update)
    for _ in range(6):
        updates, state = update(params, state, params)
        params = optax.apply_updates(params, updates)
        slow = optimizer.evaluation_params(state, params)
        seen.append((float(slow["head"][0, 0]), float(params["head"][0, 0])))
    slow, fast = zip(*seen, strict=True)
    assert slow[:2] == (1.0, 1.0)
    assert slow[2] == slow[3] == slow[4] != slow[5]
    assert [s == f for s, f in seen] == [False, False, True] * 2
    assert len(set(fast)) == 6


def test_a_run_without_an_outer_step_is_refused(tiny_mlp: Any) -> None:
    """It would be evaluated where it began, whatever it had learnt."""
    long = replace(tiny_mlp, steps=49, optimizer=replace(UNDECAYED, outer=OuterNesterov()))
    told = r"optimizer.outer.every = 50: must be at most the run's 49 steps"
    with pytest.raises(FieldError, match=told):
        validate(long)
    validate(replace(long, steps=50))


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        (SGD(cautious=True), "cautious = True: must be False: sgd always has the gradient's signs"),
        (Adafactor(cautious=True), "cautious = True: must be False: adafactor always"),
        (AdamW(hyperball=True), "weight_decay = 0.01: must be 0 with hyperball"),
        (replace(UNDECAYED, hyperball=True, outer=Lookahead()), "hyperball = True: must be False"),
        (AdamW(ema_decay=0.9, outer=OuterNesterov()), "ema_decay = 0.9: must be 0: outer:nesterov"),
        (AdamW(outer=Lookahead(every=0)), "outer.every = 0: must be >= 1"),
        (Scion(hyperball=True), "constrained = True: must be False with hyperball"),
        (AdamW(outer=Lookahead(share=1.1)), "outer.share = 1.1: must be > 0 and <= 1"),
        (AdamW(outer=OuterNesterov(momentum=0.0)), "outer.momentum = 0.0: must be > 0"),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_what_does_not_go_together_is_told_in_one_line(optimizer: Optimizer, told: str) -> None:
    with pytest.raises(FieldError) as caught:
        validate(optimizer)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("free", [ScheduleFreeAdamW(), ScheduleFreeSGD()], ids=lambda o: o.label)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ema_decay": 0.9}, "ema_decay = 0.9: must be 0: {} averages too"),
        ({"hyperball": True}, "hyperball = True: must be False: {} is evaluated at an average"),
        ({"outer": Lookahead()}, "outer = 'lookahead': must be none: {} averages too"),
        ({"outer": OuterNesterov()}, "outer = 'nesterov': must be none: {} averages too"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_averages_is_not_averaged_again(free: Optimizer, changes: Any, told: str) -> None:
    validate(free)
    with pytest.raises(FieldError) as caught:
        validate(replace(free, **changes))
    assert str(caught.value).startswith(told.format(free.label))


def test_the_table_of_optimizers_has_each_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrapper's distance from its own reference is none of the wrapped optimizer's."""
    wrapped = ("cautious", "hyperball", "muonh", "lookahead", "outer_nesterov")
    apart = {stem: float(stem in wrapped) for stem in optim_deviations.ROWS}
    assert sum(apart.values()) == len(wrapped)
    monkeypatch.setattr(optim_deviations, "distances", lambda stem: ([apart[stem]], []))
    optim_deviations.main()
    found = json.loads(capsys.readouterr().out)
    assert {"adamw", "muon", "soap"} <= found.keys()
    assert set(found.values()) == {0.0}


def test_wrappers_that_go_together() -> None:
    for optimizer in (
        AdamW(cautious=True, outer=OuterNesterov()),
        Muon(cautious=True, hyperball=True, ema_decay=0.9, clip_norm=1.0),
        Lion(cautious=True, ema_decay=0.9),
    ):
        validate(optimizer)
        _, end = after(optimizer, 5)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(end))
