"""Seeds of texts: drawn once where none is given, and one for each copy of a prompt.

A text is a function of the model, its prompt, its parameters and its seed, so that equal prompts
with equal seeds give equal texts. The first copy has the prompt's own seed.
"""

from __future__ import annotations

import secrets

from specinfer.ops.noise import key_of


def new_seed() -> int:
    """A seed that nobody chose; short enough to be typed again."""
    return secrets.randbits(32)


def seed_of_copy(seed: int, copy: int) -> int:
    """The seed of one of the texts behind a prompt.

    Args:
        seed: of the prompt.
        copy: number of the text, from 0.

    Returns:
        Below 2**53, so that every reader of JSON keeps it; the prompt's own seed for the first.

    >>> seed_of_copy(7, 0), seed_of_copy(7, 1) == seed_of_copy(7, 1), seed_of_copy(7, 1) < 2**53
    (7, True, True)
    """
    return key_of(seed, copy) >> 11 if copy else seed
