"""Fingerprints: equal to a plain NumPy twin, blind to layout and order, and to nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils import murmurhash3_32

from lmjax import fingerprint
from lmjax.fingerprint import C, Fingerprint, digest, fingerprint_whole, mix32, salts_of
from lmjax.state import TrainState, state_digest


def twin_mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def twin(path: str, x: np.ndarray) -> str:
    """The definition, word by word, on the host."""
    a, b = salts_of(path, f"{x.dtype}{list(x.shape)}")
    if x.dtype.itemsize < 4:
        words = x.reshape(-1).view(f"u{x.dtype.itemsize}").astype(np.uint32)
    else:
        words = x.reshape(-1).view(np.uint32)
    place = twin_mix(np.arange(words.size, dtype=np.uint32) ^ twin_mix(np.array([a])))
    lanes = twin_mix(words ^ place), twin_mix(words ^ (place * np.uint32(C) + b))
    return np.array([lane.sum(dtype=np.uint32) for lane in lanes], "<u4").tobytes().hex()


def prints(tree) -> dict[str, str]:
    made = Fingerprint(tree)
    return made.read(made(tree))


def drawn(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    bits = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    if dtype == "bool":
        bits &= 1
    return bits.view(dtype).reshape(shape)


def test_mix32_is_the_finalizer_of_murmurhash3():
    """Which is what scikit-learn's MurmurHash3 makes of no bytes and a seed."""
    seeds = np.random.default_rng(0).integers(0, 2**32, 100, dtype=np.uint32)
    ours = np.asarray(mix32(jnp.asarray(seeds)))
    theirs = [murmurhash3_32(b"", seed=int(seed), positive=True) for seed in seeds]
    assert ours.tolist() == theirs


@pytest.mark.bits
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *((dtype, (3, 5)) for dtype in ("bool", "int8", "bfloat16", "float16", "int32", "uint32")),
        *(("float32", shape) for shape in ((), (7,), (2, 3, 4, 5), (0, 3))),
    ],
)
def test_a_fingerprint_is_what_numpy_makes_of_the_bits(dtype, shape):
    x = drawn("uint16", shape).view(jnp.bfloat16) if dtype == "bfloat16" else drawn(dtype, shape)
    assert prints({"a": jnp.asarray(x)}) == {"a": twin("a", x)}


def test_keys_and_wide_numbers_are_words_too():
    key = jax.random.key(3)
    data = np.asarray(jax.random.key_data(key))
    print_of_key = prints({"k": key})["k"]
    assert print_of_key != prints({"k": jax.random.key(4)})["k"]
    salts = salts_of("k", f"{key.dtype}[]")
    assert print_of_key == np.asarray(fingerprint_whole(data, salts)).tobytes().hex()
    with jax.enable_x64(True):
        for dtype in ("float64", "int64", "complex64"):
            x = drawn(dtype, (3, 2))
            assert prints({"w": jnp.asarray(x)}) == {"w": twin("w", x)}


def test_numbers_of_four_bits_are_refused():
    with pytest.raises(TypeError, match="int4 has 4 bits"):
        prints([jnp.zeros(3, jnp.int4)])


def test_what_is_longer_than_a_word_can_count_is_counted_in_two(monkeypatch):
    """Where more than `PLACES` words would share numbers: rows that are swapped are seen."""
    monkeypatch.setattr(fingerprint, "PLACES", 4)
    place = np.asarray(fingerprint.places((6, 3), (0, 0), jnp.uint32(5), (6, 3)))
    assert len(set(place.reshape(-1).tolist())) == 18
    row = twin_mix(np.array([2 ^ 5], np.uint32))
    assert place[2].tolist() == twin_mix(np.arange(3, dtype=np.uint32) ^ row).tolist()


X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def swapped(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[0, 1], x[3, 2] = x[3, 2], x[0, 1]
    return x


def flipped(x: np.ndarray, bit: int) -> np.ndarray:
    words = x.copy().view(np.uint32)
    words[2, 3] ^= np.uint32(1 << bit)
    return words.view(np.float32)


@pytest.mark.parametrize(
    "other",
    [-X, swapped(X), X.reshape(6, 4), X.view(np.int32), np.roll(X, 1), X[::-1]]
    + [flipped(X, bit) for bit in (0, 5, 22, 30, 31)],
)
def test_what_is_not_the_same_has_another_fingerprint_in_both_lanes(other):
    one, two = prints({"a": jnp.asarray(X)})["a"], prints({"a": jnp.asarray(other)})["a"]
    assert one[:8] != two[:8]
    assert one[8:] != two[8:]


def test_pairs_that_are_swapped_elsewhere_are_told_apart():
    """A sum over numbers that are only xored with their places would not see it."""
    one, two = np.arange(64), np.arange(64)
    one[[0, 1]], two[[2, 3]] = one[[1, 0]], two[[3, 2]]
    both = [prints([jnp.asarray(x, jnp.int32)])["0"] for x in (one, two, np.arange(64))]
    assert len(set(both)) == 3


def state(a: np.ndarray, b: np.ndarray) -> TrainState:
    return TrainState(jnp.int32(1), {"a": jnp.asarray(a), "b": jnp.asarray(b)}, {}, {})


def test_the_digest_of_a_state_sees_where_its_leaves_are():
    y = X + 1
    kept = state_digest(state(X, y))
    assert kept == state_digest(state(X.copy(), y.copy()))
    leaves = {"step": "int32[]", "params/a": "float32[4, 6]", "params/b": "float32[4, 6]"}
    content = {"step": np.array(1, np.int32), "params/a": X, "params/b": y}
    assert kept == digest(leaves, {path: twin(path, x) for path, x in content.items()})
    others = [
        state(y, X),
        state(X, -y),
        state(X, flipped(y, 0)),
        state(X, y.reshape(-1)),
        dataclasses.replace(state(X, y), step=jnp.int32(2)),
        dataclasses.replace(state(X, y), opt_state={"a": jnp.zeros(0)}),
    ]
    digests = [state_digest(other) for other in others]
    assert len({kept, *digests}) == 7


SHARDED = """
import json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from lmjax.fingerprint import Fingerprint, function_for, salts_of

def on(x, *spec):
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

def read(x):
    fingerprint = Fingerprint([x])
    return fingerprint.read(fingerprint([x]))["0"]

x = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)
cut = [on(x), on(x, "a"), on(x, None, "b", "a"), on(x, ("a", "b"))]
text = function_for(cut[2]).lower(cut[2], salts_of("0", "")).compile().as_text()
print(json.dumps({
    "prints": [read(x) for x in [jax.device_put(x), *cut]],
    "other": read(on(-x, "a")),
    "collectives": [name for name in ("all-gather", "all-reduce") if name + "(" in text],
}))
"""


@pytest.mark.bits
def test_a_fingerprint_is_the_same_however_its_leaf_is_cut_and_gathers_nothing(eight_devices):
    told, _ = eight_devices(SHARDED)
    assert len(set(told["prints"])) == 1
    assert told["other"] not in told["prints"]
    assert told["collectives"] == ["all-reduce"]
