"""Seeds of copies."""

from __future__ import annotations

from specinfer.scheduler.sampling.seeds import new_seed, seed_of_copy


def test_copies_have_seeds_of_their_own_and_the_first_the_prompts() -> None:
    seeds = [seed_of_copy(seed, copy) for seed in (0, 1, 2**64 - 1) for copy in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == 0
    assert seeds[50] == 1
    assert max(seeds[1:100]) < 2**53


def test_new_seeds_differ() -> None:
    assert len({new_seed() for _ in range(5)}) > 1
