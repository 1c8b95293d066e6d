"""Random numbers that are a function of a key and a place: any of them, in any order, anywhere.

The text that a seed gives must not depend on what ran before, beside or twice. So there is no
generator with a state: number i of a key is a hash of both. The hash is the output function of
SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014),
which is a counter through a mixing function anyway.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def key_of(*words: int) -> int:
    """A 64-bit key of some numbers; other numbers, or another order, give another key.

    >>> key_of(1, 2) == key_of(1, 2), key_of(1, 2) == key_of(2, 1)
    (True, False)
    """
    key = len(words)
    for word in words:
        key = _mixed((key ^ _mixed((word + _GOLDEN) & _WORD)) + _GOLDEN & _WORD)
    return key


def _mixed(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _WORD
    return z ^ z >> 31


@njit(uint64(uint64, uint64), cache=True, nogil=True, inline="always")
def _bits(key, number):  # type: ignore[no-untyped-def]
    z = key + (number + uint64(1)) * uint64(_GOLDEN)
    z = (z ^ (z >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> uint64(27))) * uint64(0x94D049BB133111EB)
    return z ^ (z >> uint64(31))


@njit(cache=True, nogil=True)
def _uniforms(key, numbers, out):  # type: ignore[no-untyped-def]
    for i in range(numbers.shape[0]):
        out[i] = (float(_bits(key, uint64(numbers[i])) >> uint64(11)) + 0.5) * 2.0**-53


def uniforms(key: int, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in (0, 1), never 0 or 1: those of these places.

    Args:
        key: of :func:`key_of`.
        numbers: (n,) places, at least 0.

    >>> bool(uniforms(7, np.array([3, 1]))[1] == uniforms(7, np.array([1]))[0])
    True
    """
    out = np.empty(len(numbers))
    _uniforms(np.uint64(key), numbers, out)
    return out


def uniform(key: int, number: int) -> float:
    """One number in (0, 1)."""
    bits = _mixed(key + (number + 1) * _GOLDEN & _WORD)
    return float(((bits >> 11) + 0.5) * 2.0**-53)


def finish_times(key: int, probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """When each token arrives in a race of exponential clocks; its rate is its probability.

    The first to arrive is a draw from the probabilities, and the first k are k draws without
    replacement, in order. Races with the same key and other probabilities tend to have the same
    winner: that couples a small model's draws to the large one's. (Gumbel noise on logits says the
    same: the logarithm of an exponential clock is a Gumbel variable.)

    Args:
        key: of the race.
        probabilities: (tokens,) need not sum to 1.

    Returns:
        (tokens,) times; infinite where the probability is 0.
    """
    times = np.full(len(probabilities), np.inf)
    (runners,) = probabilities.nonzero()
    clocks = -np.log(uniforms(key, runners))
    times[runners] = clocks / probabilities[runners]
    return times
