"""Keyed noise: a function of key and place, uniform, and a race that draws from probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from specinfer.ops.noise import finish_times, key_of, uniform, uniforms


def test_one_number_is_that_of_the_array() -> None:
    places = np.array([0, 1, 2, 2**40, 17])
    for key in (0, 5, 2**64 - 1, key_of(3, 4)):
        assert uniforms(key, places).tolist() == [uniform(key, int(p)) for p in places]


def test_numbers_do_not_depend_on_what_else_is_asked() -> None:
    places = np.arange(100)
    assert (uniforms(9, places)[::-1] == uniforms(9, places[::-1].copy())).all()


@pytest.mark.parametrize("words", [(), (0,), (1, 2), (2, 1), (0, 0), (-1,), (1, 2, 0)])
def test_other_words_give_other_keys(words: tuple[int, ...]) -> None:
    others = [(), (0,), (1, 2), (2, 1), (0, 0), (-1,), (1, 2, 0)]
    assert sum(key_of(*words) == key_of(*other) for other in others) == 1


def test_numbers_are_uniform_along_places_and_along_keys() -> None:
    """Chi-square over 64 cells, far in the tail; also of pairs of neighbours."""
    n = 200_000
    along_keys = np.array([uniform(key_of(7, k), 0) for k in range(n // 10)])
    for sample in (uniforms(1, np.arange(n)), along_keys):
        counts = np.bincount((sample * 64).astype(int), minlength=64)
        expected = len(sample) / 64
        assert ((counts - expected) ** 2 / expected).sum() < 63 + 6 * np.sqrt(2 * 63)
        pairs = (sample[::2] * 8).astype(int) * 8 + (sample[1::2] * 8).astype(int)
        expected /= 2
        counts = np.bincount(pairs, minlength=64)
        assert ((counts - expected) ** 2 / expected).sum() < 63 + 6 * np.sqrt(2 * 63)
        assert 0 < sample.min() < sample.max() < 1


def test_the_winner_of_a_race_is_a_draw() -> None:
    probabilities = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    races = 40_000
    counts = np.zeros(5)
    for race in range(races):
        counts[finish_times(key_of(race), probabilities).argmin()] += 1
    possible = probabilities > 0
    expected = races * probabilities[possible]
    assert counts[1] == 0
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 3 + 6 * np.sqrt(6)


def test_races_of_like_probabilities_have_like_winners() -> None:
    """For two laws that overlap in 0.8 a race agrees at least as often as overlap/(2 - overlap)."""
    one, other = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.4, 0.3])
    overlap = np.minimum(one, other).sum()
    same = np.mean(
        [
            finish_times(key_of(3, r), one).argmin() == finish_times(key_of(3, r), other).argmin()
            for r in range(5000)
        ]
    )
    assert same > overlap / (2 - overlap) - 0.03
