"""CRC-32 of bytes of which each process has a part.

    combine(crc32(a), crc32(b), len(b)) == crc32(a + b)

As zlib's crc32_combine, which Python does not offer: n zero bytes after a multiply its polynomial
by x^(8n) modulo P, and that is a linear map over GF(2), squared as often as n has bits.
"""

import functools

POLYNOMIAL = 0xEDB88320  # P, reflected: bit 31 is the coefficient of x^0
ONE = 1 << 31


def combine(first: int, second: int, length: int) -> int:
    """The CRC-32 of two pieces, one after the other; `length` is the second's, in bytes."""
    return _times(_power(length), first) ^ second


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo P."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product


@functools.lru_cache(1024)
def _power(length: int) -> int:
    """x^(8 length) modulo P."""
    square, result, count = ONE >> 1, ONE, 8 * length
    while count:
        if count & 1:
            result = _times(result, square)
        square, count = _times(square, square), count >> 1
    return result
