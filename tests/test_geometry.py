"""Turned, enlarged and cut-out images against scipy.ndimage and numpy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from lmjax.augmentation.geometry import cut_out, turned

TOLERANCE = 1e-5  # of pixels in [0, 1]
VISIBLE = 1e-2

turn = jax.jit(turned)
windowed = jax.jit(cut_out)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(height, width, 3)).astype(np.float32)


def distance(ours: Any, theirs: Any) -> float:
    assert np.shape(ours) == np.shape(theirs)
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


@pytest.mark.smoke
@pytest.mark.parametrize("shape", [(9, 9), (16, 12), (28, 31)])
def test_a_turn_equals_scipy_s_rotate(shape):
    x = image(*shape)
    for degrees in (*np.random.default_rng(0).uniform(-180, 180, 12), 45.0, 180.0, 0.0):
        ours = turn(jnp.asarray(x), float(degrees))
        theirs = ndimage.rotate(x, degrees, reshape=False, order=1)
        assert distance(ours, theirs) < TOLERANCE
    backwards = ndimage.rotate(x, -10.0, reshape=False, order=1)
    assert distance(turn(jnp.asarray(x), 10.0), backwards) > VISIBLE
    nearest = ndimage.rotate(x, 10.0, reshape=False, order=0)
    assert distance(turn(jnp.asarray(x), 10.0), nearest) > VISIBLE


@pytest.mark.parametrize("side", [7, 8])
def test_quarter_turns_equal_numpy_s_to_the_bit(side):
    x = image(side, side)
    for quarters in range(-5, 6):
        assert np.array_equal(turn(jnp.asarray(x), 90.0 * quarters), np.rot90(x, quarters))
    assert not np.array_equal(turn(jnp.asarray(x), 90.1), np.rot90(x, 1))


@pytest.mark.parametrize("factor", [0.7, 1.3, 2.0])
def test_turn_and_zoom_equal_scipy_s_affine_map(factor):
    x, middle = image(15, 12), np.array([7, 5.5])
    angle = np.deg2rad(30)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / factor
    offset = middle - matrix @ middle
    theirs = [ndimage.affine_transform(x[..., c], matrix, offset, order=1) for c in range(3)]
    assert distance(turn(jnp.asarray(x), 30.0, factor), np.stack(theirs, -1)) < TOLERANCE
    assert distance(turn(jnp.asarray(x), 30.0, 1 / factor), np.stack(theirs, -1)) > VISIBLE


def test_a_zoom_by_two_is_the_middle_of_scipy_s():
    x = image(9, 9)
    theirs = ndimage.zoom(x, (17 / 9, 17 / 9, 1), order=1)[4:13, 4:13]
    assert distance(turn(jnp.asarray(x), 0.0, 2.0), theirs) < TOLERANCE
    assert distance(x, theirs) > VISIBLE


@pytest.mark.parametrize("window", [(2, 3, 5, 6), (0, 0, 12, 16), (4, 15, 1, 1), (7, 1, 5, 15)])
def test_a_window_equals_scipy_s_zoom_of_it(window):
    x, (top, left, height, width) = image(12, 16), window
    theirs = ndimage.zoom(
        x[top : top + height, left : left + width],
        (12 / height, 16 / width, 1),
        order=1,
        mode="nearest",
        grid_mode=True,
    )
    assert distance(windowed(jnp.asarray(x), *map(float, window)), theirs) < TOLERANCE
    elsewhere = map(float, (abs(top - 1), left, height, width))
    assert distance(windowed(jnp.asarray(x), *elsewhere), theirs) > VISIBLE
