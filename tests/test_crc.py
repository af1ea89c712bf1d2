"""The CRC-32 of pieces, against zlib's of the whole."""

import zlib

import numpy as np
import pytest

from lmjax.crc import combine


@pytest.mark.parametrize(
    "sizes", [(0, 0), (1, 0), (0, 1), (1, 1), (5, 8), (1000, 4097), (3, 10**6)]
)
def test_two_pieces_have_the_sum_of_the_whole(sizes: tuple[int, int]) -> None:
    one, two = (np.random.default_rng(n).bytes(n) for n in sizes)
    assert combine(zlib.crc32(one), zlib.crc32(two), len(two)) == zlib.crc32(one + two)


def test_the_order_and_the_length_count() -> None:
    one, two = zlib.crc32(b"some"), zlib.crc32(b"bytes")
    assert combine(one, two, 5) == zlib.crc32(b"somebytes")
    assert combine(two, one, 4) != zlib.crc32(b"somebytes")
    assert combine(one, two, 6) != zlib.crc32(b"somebytes")
