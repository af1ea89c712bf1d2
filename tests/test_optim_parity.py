"""Every optimizer against its authors' code or torch's, stored by references/make_optim.py."""

import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from lmjax.optim import (
    MARS,
    SGD,
    SOAP,
    Adafactor,
    AdamW,
    AdEMAMix,
    Lion,
    Momentum,
    Muon,
    MuonOptax,
    NAdamW,
    Nesterov,
    Optimizer,
    ScheduleFreeAdamW,
)
from lmjax.optim.recipe import Auxiliary
from lmjax.optim.soap import Sides
from lmjax.parts import alternatives
from lmjax.roles import Leaf

Tree = dict[str, Any]

TOLERANCE = 1e-10  # of parameters of order 1, at every step
VISIBLE = 1e-5  # what a wrong setting must exceed

LEAVES = {
    "up": Leaf((4, 7), ("embed", "mlp")),
    "down": Leaf((7, 3), ("mlp", "embed")),
    "vector": Leaf((5,), ("embed",)),
    "stacked": Leaf((2, 4, 6), ("layers", "embed", "mlp")),
    "square": Leaf((5, 5), ("embed", "mlp")),
    "squares": Leaf((2, 4, 4), ("layers", "embed", "mlp")),
}


def constant(count: Any) -> Any:
    return 1.0


def warm_up(count: Any) -> Any:
    return jnp.minimum((jnp.asarray(count, float) + 1) / 5, 1.0)


def warm_up_and_fall(count: Any) -> Any:
    return warm_up(count) * (1 - jnp.asarray(count, float) / 20)


def as_stored(params: Any, stored: Any) -> Any:
    return stored


def times(scale: float) -> Callable[[Any, Any], Any]:
    return lambda params, stored: scale * stored


class Row(NamedTuple):
    """An optimizer as its reference was set, and settings that are not; each must show."""

    right: Optimizer
    wrong: tuple[Optimizer, ...]
    factor: Callable[[Any], Any] = constant
    gradient: Callable[[Any, Any], Any] = as_stored  # of a leaf, from the stored one
    wrong_gradient: Callable[[Any, Any], Any] | None = None


ADAMW = {"learning_rate": 0.01, "weight_decay": 0.1}
SLOW = {**ADAMW, "alpha": 5.0}
MUON: dict[str, Any] = {"weight_decay": 0.1, "newton_schulz_dtype": "float64"}
FREE = ScheduleFreeAdamW(**ADAMW)
FACTOR = Adafactor(**ADAMW, factored_from=1)
VARIANCE = MARS(**ADAMW)
TURNED = SOAP(learning_rate=0.01, weight_decay=0.0, refresh_every=3)
# The authors decay after their step, so that their rate and decay are these (lmjax/optim/soap.py).
TURNED_DECAYED = replace(
    TURNED, learning_rate=0.01 * (1 - 0.01 * 0.1), weight_decay=0.1 / (1 - 0.01 * 0.1)
)

ROWS: dict[str, Row] = {
    "sgd": Row(SGD(learning_rate=0.05), (SGD(learning_rate=0.0501),)),
    "momentum": Row(
        Momentum(learning_rate=0.05),
        (Momentum(learning_rate=0.05, momentum=0.901), Nesterov(learning_rate=0.05)),
    ),
    "nesterov": Row(
        Nesterov(learning_rate=0.05),
        (Nesterov(learning_rate=0.05, momentum=0.901), Momentum(learning_rate=0.05)),
    ),
    "adamw": Row(
        AdamW(**ADAMW),
        (
            AdamW(**ADAMW, b1=0.901),
            AdamW(**ADAMW, b2=0.99),
            AdamW(**ADAMW, eps=1e-4),
            AdamW(learning_rate=0.01, weight_decay=0.101),
            NAdamW(**ADAMW),
        ),
    ),
    "nadamw": Row(
        NAdamW(**ADAMW),
        (NAdamW(**ADAMW, b1=0.901), NAdamW(**ADAMW, b2=0.99), NAdamW(**ADAMW, eps=1e-4)),
    ),
    "adafactor": Row(
        FACTOR,
        (
            replace(FACTOR, decay_exponent=0.81),
            replace(FACTOR, clip_threshold=1.1),
            replace(FACTOR, least_scale=2.0),
            replace(FACTOR, scale_by_parameter=False),
            replace(FACTOR, factored_from=4),  # `down` and no other
            replace(FACTOR, weight_decay=0.101),
        ),
    ),
    "lion": Row(
        Lion(learning_rate=0.003, weight_decay=0.1),
        (
            Lion(learning_rate=0.003, weight_decay=0.1, b1=0.8),
            Lion(learning_rate=0.003, weight_decay=0.1, b2=0.95),
            Lion(learning_rate=0.003, weight_decay=0.101),
        ),
    ),
    "ademamix": Row(
        AdEMAMix(**SLOW),
        (
            AdEMAMix(**SLOW, b1=0.901),
            AdEMAMix(**SLOW, b2=0.99),
            AdEMAMix(**SLOW, b3=0.999),
            AdEMAMix(**ADAMW, alpha=4.0),
            AdEMAMix(**SLOW, eps=1e-4),
        ),
    ),
    "ademamix_warmed_up": Row(
        AdEMAMix(**SLOW, slow_warmup_steps=12),
        (AdEMAMix(**SLOW, slow_warmup_steps=13), AdEMAMix(**SLOW)),
    ),
    "muon": Row(
        Muon(**MUON),
        (
            Muon(**MUON, momentum=0.951),
            Muon(**MUON, nesterov=False),
            Muon(**MUON, newton_schulz_steps=6),
            Muon(weight_decay=0.101, newton_schulz_dtype="float64"),
            Muon(weight_decay=0.1, newton_schulz_dtype="bfloat16"),
            Muon(**MUON, auxiliary=Auxiliary(b2=0.99)),
            MuonOptax(weight_decay=0.1),
        ),
    ),
    "schedule_free": Row(
        FREE,
        (replace(FREE, b1=0.901), replace(FREE, b2=0.99), replace(FREE, eps=1e-4), AdamW(**ADAMW)),
        factor=warm_up,
    ),
    "schedule_free_falling": Row(FREE, (replace(FREE, b1=0.901),), factor=warm_up_and_fall),
    "mars": Row(
        VARIANCE,
        (
            replace(VARIANCE, b1=0.951),
            replace(VARIANCE, b2=0.98),
            replace(VARIANCE, eps=1e-4),
            replace(VARIANCE, gamma=0.026),
            replace(VARIANCE, auxiliary=Auxiliary(b2=0.99)),
            AdamW(**ADAMW, b1=0.95, b2=0.99),
        ),
        gradient=times(0.15),
        wrong_gradient=times(0.3),  # had no norm been below 1, this would not show
    ),
    "mars_exact": Row(
        replace(VARIANCE, exact=True),
        (VARIANCE, replace(VARIANCE, exact=True, gamma=0.026)),
        gradient=lambda params, stored: 0.15 * (params - stored),
    ),
    "soap": Row(
        TURNED,
        (
            replace(TURNED, b1=0.951),
            replace(TURNED, b2=0.951),
            replace(TURNED, factor_decay=0.951),
            replace(TURNED, eps=1e-4),
            replace(TURNED, refresh_every=4),
            replace(TURNED, longest_side=4),
        ),
    ),
    "soap_decayed": Row(TURNED_DECAYED, (replace(TURNED, weight_decay=0.1),)),
    "soap_one_side": Row(
        replace(TURNED, longest_side=5),
        (replace(TURNED, longest_side=3), replace(TURNED, longest_side=5, refresh_every=4)),
    ),
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@functools.cache
def stored() -> dict[str, Tree]:
    """Stem -> leaf -> array: where they start, gradients [20, ...], one path [20, ...] each."""
    trees: dict[str, Tree] = {}
    with np.load(Path(__file__).parent / "references" / "optim.npz") as file:
        for key in file.files:
            stem, _, leaf = key.partition("/")
            trees.setdefault(stem, {})[leaf] = file[key]
    return trees


def build(
    optimizer: Optimizer, roles: dict[str, Leaf], factor: Callable[[Any], Any] = constant
) -> optax.GradientTransformationExtraArgs:
    return optimizer.build(roles, optimizer.learning_rate, factor)


def walk(
    transformation: optax.GradientTransformation,
    start: Tree,
    gradients: Tree,
    gradient: Callable[[Any, Any], Any] = as_stored,
    seen: Callable[[Any, Any], Any] = lambda state, params: params,
    state: Any = None,
) -> Tree:
    """What `seen` sees after every step, [20, ...]; to be traced."""
    transformation = optax.with_extra_args_support(transformation)

    def step(carry: Any, stored: Any) -> Any:
        params, state = carry

        def at(params: Any) -> Any:
            return None, jax.tree.map(gradient, params, stored)

        oracle = types.SimpleNamespace(value_and_grad=at)
        updates, state = transformation.update(at(params)[1], state, params, oracle=oracle)
        params = optax.apply_updates(params, updates)
        return (params, state), seen(state, params)

    state = transformation.init(start) if state is None else state
    return jax.lax.scan(step, (start, state), {name: gradients[name] for name in start})[1]


def path(transformation: optax.GradientTransformation, start: Tree, gradients: Tree) -> Tree:
    """Each leaf after every step, [20, ...]."""
    return jax.jit(lambda start, gradients: walk(transformation, start, gradients))(
        start, gradients
    )


def distance(ours: Tree, theirs: Tree) -> float:
    """The largest difference in any entry of any leaf after any step."""
    assert ours.keys() == theirs.keys()
    assert all(x.dtype == jnp.float64 for x in ours.values())
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs)


def only(tree: Tree, *names: str) -> Tree:
    return {name: tree[name] for name in names}


@functools.cache
def distances(label: str) -> tuple[list[float], list[float]]:
    """(of the right setting, at the parameters and where it is evaluated; of the wrong ones)."""
    row, theirs = ROWS[label], stored()[label]
    roles = only(LEAVES, *theirs)

    @jax.jit
    def everything(start: Tree, gradients: Tree) -> tuple[Any, list[Any]]:
        def one(optimizer: Optimizer, gradient: Callable[[Any, Any], Any]) -> Any:
            def seen(state: Any, params: Any) -> Any:
                return params, optimizer.evaluation_params(state, params)

            transformation = build(optimizer, roles, row.factor)
            return walk(transformation, start, gradients, gradient, seen)

        wrong = [one(optimizer, row.gradient) for optimizer in row.wrong]
        if row.wrong_gradient is not None:
            wrong.append(one(row.right, row.wrong_gradient))
        return one(row.right, row.gradient), wrong

    start = only(stored()["start"], *roles)
    (params, evaluated), wrong = everything(start, stored()["gradients"])
    right = [distance(params, theirs)]
    if f"{label}_x" in stored():  # after each step but the last
        x = stored()[f"{label}_x"]
        right.append(distance({name: path[:-1] for name, path in evaluated.items()}, x))
    return right, [distance(params, theirs) for params, _ in wrong]


@pytest.mark.parametrize("label", ROWS)
def test_equals_the_reference_at_every_step(label: str) -> None:
    assert max(distances(label)[0]) < TOLERANCE


@pytest.mark.parametrize("label", ROWS)
def test_a_wrong_setting_shows(label: str) -> None:
    wrong = distances(label)[1]
    assert len(wrong) >= len(ROWS[label].wrong) > 0
    assert min(wrong) > VISIBLE


def test_every_optimizer_is_compared_with_the_commit_that_it_names() -> None:
    """muon-optax is compared with the optax that is installed, below."""
    ours = {o for o in alternatives(Optimizer).values() if o.__module__.startswith("lmjax.")}
    assert {type(row.right) for row in ROWS.values()} == ours - {MuonOptax}
    sources = set(stored()["sources"][""].tolist())
    for cls in ours - {MuonOptax}:
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
    updates, state = jax.jit(transformation.update)(first, transformation.init(start), start)
    assert all(np.all(np.asarray(u) == 0) for u in updates.values())
    if given:
        inputs, outputs = stored()["basis_inputs"], stored()["basis_outputs"]
        bases = {name: Sides(inputs[name], outputs[name]) for name in roles}
        state["direction"] = state["direction"]._replace(bases=bases)
    rest = {name: x[1:] for name, x in gradients.items()}
    ours = jax.jit(lambda start, rest, state: walk(transformation, start, rest, state=state))(
        start, rest, state
    )
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


@pytest.mark.parametrize("label", ["muon", "adafactor", "mars", "soap"])
def test_layers_taken_for_one_matrix_show(label: str) -> None:
    name = "squares" if label == "soap" else "stacked"
    roles = {name: replace(LEAVES[name], axes=("heads", "head_dim", "mlp"))}
    row, start = ROWS[label], only(stored()["start"], name)
    gradients = {name: row.gradient(None, stored()["gradients"][name])}
    ours = path(build(row.right, roles), start, gradients)
    assert distance(ours, only(stored()[label], name)) > VISIBLE


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
    optimizer = replace(FACTOR, weight_decay=0.0, decay_exponent=exponent)
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
