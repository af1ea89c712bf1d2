"""What each optimizer keeps lies as its parameter does, and what its update gathers, under FSDP."""

from typing import Any

import pytest

from lmjax.optim import Optimizer
from lmjax.parts import alternatives

NEAR = 3e-5  # largest difference of three steps, relative to the steps of a leaf
CUT = [[2, 16, 24], [40, 16]]  # shapes of the leaves that fsdp cuts
STACK = 2 * 16 * 24  # numbers in the stack of two layers, which fsdp cuts as it does the table

CODE = """
import json, re, sys, types
import jax, jax.numpy as jnp, numpy as np, optax
from lmjax.mesh import OnMesh, Parallel, make_mesh, state_shardings
from lmjax.optim import Optimizer
from lmjax.parallel import on_mesh
from lmjax.parts import alternatives, replace
from lmjax.roles import Leaf
from lmjax.state import TrainState

roles = {
    "stack": Leaf((2, 16, 24), ("layers", "embed", "mlp")),
    "table": Leaf((40, 16), ("vocab", "embed")),
    "bias": Leaf((16,), ("embed",)),
}
# Rounding alone decides a basis that the first gradient leaves open: SOAP turns the short side, and
# Shampoo, whose roots make as much of it, whitens that alone.
short = {"longest_side": 16, "refresh_every": 1}
settings = {
    "soap": short,
    "shampoo": short,
    "adafactor": {"factored_from": 16},
    "prodigy": {"first_estimate": 0.1},
    "dadapt-adamw": {"first_estimate": 0.2},
    "sophia-g": {"refresh_every": 1},
    "sophia-h": {"refresh_every": 2},
    "lbfgs": {"memory": 2, "search_steps": 3},
}
random = np.random.default_rng(0)
params, *gradients = (
    {name: random.normal(size=leaf.shape).astype(np.float32) for name, leaf in roles.items()}
    for _ in range(4)
)

def collectives(text):
    found = {}
    for shapes, kind in re.findall(
        r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)[-(]", text
    ):
        sizes = [s.split(",") for s in re.findall(r"\\[(.*?)\\]", shapes)]
        largest = max(int(np.prod([int(n) for n in size if n])) for size in sizes)
        found[kind] = max(found.get(kind, 0), largest)
    return found

def far(a, b):
    return float(np.max(np.abs(a - b)) / (np.max(np.abs(b)) + 1e-12))

told, last = {}, params
for label, cls in alternatives(Optimizer).items():
    optimizer = cls(**settings.get(label, {}))
    transform = optimizer.build(roles, optimizer.learning_rate, lambda count: 1.0)

    def step(state, gradient):
        def loss(params, oracle=None):  # whose gradient is given; each entry bends otherwise
            parts = jax.tree.map(
                lambda p, q, g: jnp.sum(g * (p - q) + jnp.sin(p - q) ** 2 / 8),
                params, state.params, gradient)
            return sum(jax.tree.leaves(parts))

        oracle = types.SimpleNamespace(value_and_grad=jax.value_and_grad(loss),
                                       sampled_grad=lambda: gradient, targets=8.0)
        updates, opt_state = transform.update(
            gradient, state.opt_state, state.params,
            value=jnp.float32(0), grad=gradient, value_fn=loss, oracle=oracle)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), {}, opt_state)

    first = TrainState(jnp.int32(0), params, {}, jax.jit(transform.init)(params))
    ends = []
    for fsdp in (1, 8):
        mesh = make_mesh(Parallel(fsdp=fsdp), jax.devices()[:fsdp])
        lie = state_shardings(mesh, roles, first)
        state = jax.device_put(first, lie)

        compiled = jax.jit(
            on_mesh(step, OnMesh(mesh, {})),
            in_shardings=(lie, lie.params),
            out_shardings=lie,
            compiler_options={"xla_backend_optimization_level": 0},
        )
        run = compiled.lower(state, jax.device_put(gradients[0], lie.params)).compile()
        for gradient in gradients:
            state = jax.block_until_ready(run(state, jax.device_put(gradient, lie.params)))
        ends.append(state)
    moved = jax.tree.map(lambda x, p: np.asarray(x) - p, ends[0].params, params)
    held = {
        jax.tree_util.keystr(path, simple=True, separator="/"):
            [x.shape, x.size // x.addressable_shards[0].data.size]
        for path, x in jax.tree_util.tree_leaves_with_path(ends[1].opt_state) if x.ndim
    }
    told[label] = {
        "far": max(jax.tree.leaves(jax.tree.map(
            lambda a, b, p: far(np.asarray(a) - p, b), ends[1].params, moved, params))),
        "other": max(jax.tree.leaves(jax.tree.map(
            lambda a, b, p: far(np.asarray(a) - p, b), last, moved, params))),
        "collectives": collectives(run.as_text()),
        "held": held,
    }
    last = ends[0].params
print(json.dumps(told))
"""


MATRICES = ("muon", "muon-optax", "d-muon", "normuon", "scion", "scion-light", "soap", "shampoo")
GATHERED = {
    **dict.fromkeys((*MATRICES, "lbfgs"), STACK),
    "adafactor": 2 * 16,
    "dion2": 2 * 16,
    "kron": 2 * 16 * 16,
}
# Largest all-gather of an update, in numbers: orthogonal and turned directions need whole matrices,
# and all layers are gathered at once, since two cannot be dealt out to eight devices; the inner
# products of optax's lbfgs flatten each leaf; of Adafactor only the rows' means, of Dion2 only the
# rows' norms, by which it chooses, of Kron what the factors of one side are made of. All others
# gather nothing.

LABELS = sorted(
    label for label, cls in alternatives(Optimizer).items() if cls.__module__.startswith("lmjax.")
)
each = pytest.mark.parametrize("label", LABELS)


@pytest.fixture(scope="module")
def told(eight_devices: Any) -> Any:
    return eight_devices(CODE)[0]


@each
def test_state_lies_as_its_parameter(told: Any, label: str) -> None:
    """What has a parameter's shape is cut as it is; factors, bases and biases' state are whole."""
    for path, (shape, shares) in told[label]["held"].items():
        assert shares == (8 if shape in CUT else 1), path


@each
def test_an_update_gathers_what_is_said_and_no_more(told: Any, label: str) -> None:
    assert told[label]["collectives"].get("all-gather", 0) == GATHERED.get(label, 0)


@each
def test_eight_devices_step_as_one_does(told: Any, label: str) -> None:
    assert told[label]["far"] < NEAR


def test_another_optimizer_is_further_away(told: Any) -> None:
    """Negative control: each row beside the one before it."""
    assert min(row["other"] for row in told.values()) > 100 * NEAR


def test_there_was_something_to_cut(told: Any) -> None:
    """Without which the first test would show nothing."""
    cut = {n: sum(shares == 8 for _, shares in row["held"].values()) for n, row in told.items()}
    some = {"sgd": 0, "momentum": 2, "adamw": 4, "schedule-free-adamw": 4, "mars": 6, "soap": 4}
    assert cut.items() >= some.items()


DEALT = """
import json, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from lmjax.mesh import OnMesh, Parallel, make_mesh
from lmjax.optim.newton_schulz import FASTEST, orthogonal
from lmjax.parallel import on_mesh
from lmjax.roles import Leaf

told = {}
mesh = make_mesh(Parallel(fsdp=8))
lies = NamedSharding(mesh, PartitionSpec(None, "fsdp", None, None))
for layers in (8, 6):
    leaf = Leaf((layers, 16, 2, 12), ("layers", "embed", "heads", "head_dim"))

    def turn(x):
        matrices = orthogonal(leaf, x, [FASTEST] * 5, jnp.dtype("bfloat16"))
        return leaf.from_matrices(matrices)

    x = np.random.default_rng(0).normal(size=leaf.shape).astype(np.float32)
    jitted = jax.jit(on_mesh(turn, OnMesh(mesh, {})), in_shardings=lies, out_shardings=lies)
    text = jitted.lower(x).compile().as_text()
    told[layers] = {
        "gathers": "all-gather" in text,
        "sums": re.findall(r" = (\\S+) all-reduce\\(", text),
        "equal": bool(np.array_equal(jitted(jax.device_put(x, lies)), jax.jit(turn)(x))),
    }
print(json.dumps(told))
"""


def test_layers_are_dealt_out_where_their_number_divides(eight_devices: Any) -> None:
    """Eight on eight devices: nothing is gathered, and nothing summed but their norms."""
    told = eight_devices(DEALT)[0]
    assert told["8"] == {"gathers": False, "sums": ["f32[8]{0}"], "equal": True}
    assert told["6"]["gathers"]
