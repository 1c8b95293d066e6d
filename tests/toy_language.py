"""A model that is a table made up from a seed: small enough to add up every text's probability."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

Text = tuple[int, ...]
Row = Any


@dataclass
class Language:
    """Probabilities of the next token behind every text, made up when asked for.

    Attributes:
        seed: of all rows.
        vocabulary: tokens.
        zeros: whether a token of each row is impossible.
        rows: those that were asked for, by the text before.
    """

    seed: int
    vocabulary: int
    zeros: bool = False
    rows: dict[Text, Row] = field(default_factory=dict)

    def __call__(self, text: Text) -> Row:
        """The probabilities (vocabulary,) of what follows a text."""
        if text not in self.rows:
            generator = np.random.default_rng([self.seed, len(text), *text])
            row = generator.dirichlet(np.full(self.vocabulary, 0.7))
            if self.zeros and self.vocabulary > 2:
                row[generator.integers(self.vocabulary)] = 0
            self.rows[text] = row / row.sum()
        return self.rows[text]

    def law(self, length: int, text: Text = ()) -> dict[Text, float]:
        """The probability of every text of a length that begins like this one."""
        found = {}
        for rest in product(range(self.vocabulary), repeat=length - len(text)):
            whole, probability = (*text, *rest), 1.0
            for at in range(len(text), length):
                probability *= self(whole[:at])[whole[at]]
            found[whole] = probability
        return found
