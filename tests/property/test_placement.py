"""Whatever ranks read, write and reduce: who wants a value gets it, and nothing moves in vain."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_laws import check_placement


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_rank_holds_what_it_wants(data: st.DataObject) -> None:
    check_placement(lambda low, high: data.draw(st.integers(low, high)))


def test_many_sequences() -> None:
    for seed in range(3000):
        check_placement(random.Random(seed).randint)
