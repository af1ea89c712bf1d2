"""Saving while the arrays that are saved go on being donated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lmjax.checkpoint import Checkpoints, _undonated
from lmjax.state import TrainState


@pytest.mark.bits
def test_steps_that_follow_at_once_do_not_touch_what_is_saved(tmp_path):
    random, donate = np.random.default_rng(0), jax.jit(lambda x: -x, donate_argnums=0)
    values = {
        "many": random.normal(size=(512, 1024)).astype(np.float32),
        "few": random.normal(size=3).astype(jnp.bfloat16),
    }
    params = {name: jnp.asarray(np.copy(x)) for name, x in values.items()}
    state = TrainState(jnp.int32(7), params, {}, {"count": jnp.int32(3)})
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    checkpoints = Checkpoints(epath.Path(tmp_path / "checkpoints"), 1)
    checkpoints.save(7, state, {"config": {}, "data": {}})
    for _ in range(3):
        state = jax.tree.map(donate, state)
    checkpoints.wait()
    restored, _ = checkpoints.restore(7, abstract)
    checkpoints.close()
    for name, x in values.items():
        assert restored.params[name].dtype == x.dtype
        assert np.array_equal(restored.params[name], x)
    assert not np.array_equal(state.params["many"], values["many"])
    assert (int(restored.step), int(restored.opt_state["count"])) == (7, 3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere Orbax copies by itself")
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int8, np.bool_])
def test_what_is_saved_lies_in_memory_of_its_own(dtype):
    for shape in ((), (3,), (40, 50)):
        x = jnp.ones(shape, dtype)
        kept = _undonated(x)
        assert kept.unsafe_buffer_pointer() != x.unsafe_buffer_pointer()
        assert (kept.dtype, kept.sharding) == (x.dtype, x.sharding)
        assert np.array_equal(kept, x)
