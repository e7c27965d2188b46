"""Shamir's secret sharing over GF(2^521 - 1): any `threshold` shares give the secret, fewer give nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from headway.numerics.keys import Key
from headway.numerics.secure_random import SecureStream

PRIME = 2**521 - 1
SECRET, SHARE = 32, 66  # bytes of a secret, and of a share


def shares_of(secret: bytes, threshold: int, points: Sequence[int], seed: bytes) -> list[bytes]:
    """A share of 66 bytes for each point: the value there of a polynomial of degree `threshold - 1` that is the secret
    at 0.

    points: distinct and above 0.  seed: 32 secret bytes from which the other coefficients are drawn (AES-256-CTR), so
    that the same call gives the same shares.

    Raises:
        ValueError: for a secret that has not 32 bytes, or points that are not distinct and above 0.
    """
    if len(secret) != SECRET or len(set(points)) != len(points) or min(points, default=1) < 1 or threshold < 1:
        raise ValueError("a secret of 32 bytes is shared at distinct points above 0")
    drawn = SecureStream(Key(seed)).bytes(SHARE * (threshold - 1)).tobytes()
    starts = range(0, len(drawn), SHARE)
    coefficients = [int.from_bytes(drawn[start : start + SHARE], "little") & PRIME for start in starts]
    shares = []
    for point in points:
        value = 0
        for coefficient in coefficients:
            value = (value * point + coefficient) % PRIME
        shares.append(((value * point + int.from_bytes(secret, "big")) % PRIME).to_bytes(SHARE, "big"))
    return shares


def secret_of(shares: Mapping[int, bytes], threshold: int) -> bytes | None:
    """The secret of shares by their points, by Lagrange's formula at 0; `None` if they are too few, or not those of a
    secret of 32 bytes."""
    points = tuple(sorted(shares))[:threshold]
    if len(points) < threshold:
        return None
    parts = (
        int.from_bytes(shares[point], "big") * weight for point, weight in zip(points, _weights(points), strict=True)
    )
    value = sum(parts) % PRIME
    return value.to_bytes(SECRET, "big") if value < 1 << (8 * SECRET) else None


@lru_cache(maxsize=1 << 12)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights at 0: `prod_m x_m / (x_m - x_j)` over the other points, with one inversion for all."""
    numerators, denominators = [], []
    for own in points:
        above, below = 1, 1
        for other in points:
            if other != own:
                above, below = above * other, below * (other - own)
        numerators.append(above % PRIME)
        denominators.append(below % PRIME)
    before, product = [], 1
    for denominator in denominators:
        before.append(product)
        product = product * denominator % PRIME
    inverse, weights = pow(product, -1, PRIME), [0] * len(points)
    for place in reversed(range(len(points))):
        weights[place] = numerators[place] * inverse * before[place] % PRIME
        inverse = inverse * denominators[place] % PRIME
    return tuple(weights)
