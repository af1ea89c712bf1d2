"""Every parameter is covered by the roles table, and its matrix view is the right one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from experiments import char_gpt, digits_fcn
from lmjax.errors import InputError
from lmjax.parallel import abstract_variables
from lmjax.roles import Leaf, read_roles


def roles_of(experiment) -> dict[str, Leaf]:
    batch = experiment.data.load().batch(0, 0, 2)
    roles = read_roles(abstract_variables(experiment, batch)["params"])
    leaves, _ = jax.tree_util.tree_flatten_with_path(roles, is_leaf=lambda x: isinstance(x, Leaf))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_gpt():
    roles = roles_of(char_gpt.config())
    assert {name: leaf.role for name, leaf in roles.items() if leaf.role != "vector"} == {
        "embedding": "embedding",
        "position": "embedding",
        "layers/attention/qkv": "matrix",
        "layers/attention/out": "matrix",
        "layers/mlp/in": "matrix",
        "layers/mlp/out": "matrix",
    }
    assert roles["layers/attention/qkv"].matrix_shape == (4, 3, 128, 128)
    assert roles["layers/attention/out"].matrix_shape == (4, 128, 128)
    assert roles["layers/mlp/in"].matrix_shape == (4, 128, 512)
    assert [name for name, leaf in roles.items() if leaf.decays and "norm" in name] == []


def test_simple_fcn():
    roles = roles_of(digits_fcn.config())
    assert {name: leaf.role for name, leaf in roles.items()} == {
        "conv/kernel": "matrix",
        "conv/bias": "vector",
        "hidden/kernel": "matrix",
        "hidden/bias": "vector",
        "head/kernel": "head",
        "head/bias": "vector",
    }
    assert roles["conv/kernel"].matrix_shape == (25, 32)


def test_the_matrix_view_of_fused_heads_is_one_matrix_for_each_of_q_k_v():
    layers, width, heads, head_dim = 2, 5, 3, 4
    x = np.random.default_rng(0).normal(size=(layers, width, 3, heads, head_dim))
    leaf = Leaf(x.shape, ("layers", "embed", "qkv", "heads", "head_dim"))
    seen = {}

    def square(matrices):
        seen["shape"] = matrices.shape
        return matrices @ jnp.swapaxes(matrices, -1, -2) @ matrices

    y = np.asarray(leaf.as_matrices(square, jnp.asarray(x, jnp.float32)))
    assert seen["shape"] == (layers, 3, width, heads * head_dim)
    for layer in range(layers):
        for part in range(3):
            matrix = x[layer, :, part].reshape(width, heads * head_dim)
            expected = (matrix @ matrix.T @ matrix).reshape(width, heads, head_dim)
            assert np.allclose(y[layer, :, part], expected, atol=1e-2, rtol=1e-4)
    other = x[0, :, 1].reshape(width, -1)
    wrong = (other @ other.T @ other).reshape(width, heads, head_dim)
    assert not np.allclose(y[0, :, 0], wrong, atol=1e-2, rtol=1e-4)


def boxed(shape, *axes):
    return {"w": meta.Partitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names=axes)}


def test_a_leaf_that_the_table_does_not_cover_is_refused():
    with pytest.raises(InputError, match="nearest: embed"):
        read_roles(boxed((2, 3), "embedd", "mlp"))
    with pytest.raises(ValueError, match="no axis names"):
        read_roles({"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)})
    with pytest.raises(ValueError, match="not a vector or matrix"):
        read_roles(boxed((2, 3, 4), "embed", "mlp", "features"))
    assert read_roles(boxed((2, 3), "embed", "mlp"))["w"].role == "matrix"
