"""A memory counts what is held, and says who holds it when there is no more."""

from __future__ import annotations

from typing import Any

import pytest

from specinfer.runtime.errors import ConfigError, SpecInferError
from specinfer.runtime.memory import (
    HoldError,
    Memory,
    OutOfMemoryError,
    budgets_from,
    human_size,
)


def test_used_and_peak_follow_holds_and_releases() -> None:
    memory = Memory("cpu")
    memory.hold("a", 10)
    memory.hold("b", 20)
    assert memory.release("a") == 10
    memory.hold("c", 5)
    assert (memory.used, memory.peak) == (25, 30)


def test_an_owner_may_hold_more_and_releases_all() -> None:
    memory = Memory("cpu", 30)
    memory.hold("a", 10)
    memory.hold("a", 15)
    assert (memory.holders, memory.left) == ((("a", 25),), 5)
    assert memory.release("a") == 25
    assert (memory.holders, memory.left) == ((), 30)


def test_holders_are_sorted_largest_first_and_equals_by_name() -> None:
    memory = Memory("cpu")
    for owner, num_bytes in (("b", 2), ("z", 9), ("a", 2), ("none", 0)):
        memory.hold(owner, num_bytes)
    assert memory.holders == (("z", 9), ("a", 2), ("b", 2), ("none", 0))


def test_the_whole_budget_may_be_held() -> None:
    memory = Memory("cpu", 10)
    memory.hold("a", 10)
    memory.hold("nothing", 0)
    assert memory.left == 0


def test_without_a_budget_there_is_no_end() -> None:
    memory = Memory("cpu")
    memory.hold("a", 1 << 60)
    assert memory.left is None


def test_out_of_memory_says_who_asked_what_is_left_and_who_holds_it() -> None:
    memory = Memory("gpu 0", 8 << 30)
    memory.hold("draft.weights", 1 << 30)
    memory.hold("llm.weights", 6 << 30)
    for n in range(5):
        memory.hold(f"table.{n}", (n + 1) << 20)
    with pytest.raises(OutOfMemoryError) as caught:
        memory.hold("llm.kv", 3 << 29)
    assert str(caught.value) == (
        "gpu 0: llm.kv asks for 1.5 GiB, but 1009.0 MiB of 8.0 GiB are left, 527.0 MiB too few; "
        "held: llm.weights 6.0 GiB, draft.weights 1.0 GiB, table.4 5.0 MiB, table.3 4.0 MiB, "
        "table.2 3.0 MiB, 2 more 3.0 MiB"
    )
    assert isinstance(caught.value, SpecInferError)
    assert (caught.value.memory, caught.value.owner) == ("gpu 0", "llm.kv")
    assert caught.value.asked == 3 << 29
    assert caught.value.left == 1009 << 20


def test_out_of_memory_of_an_empty_memory() -> None:
    with pytest.raises(OutOfMemoryError, match="100 B of 100 B are left, 1 B too few; nothing is"):
        Memory("cpu", 100).hold("a", 101)


def test_a_refused_hold_changes_nothing() -> None:
    memory = Memory("cpu", 10)
    memory.hold("a", 6)
    with pytest.raises(OutOfMemoryError):
        memory.hold("b", 5)
    assert (memory.used, memory.peak, memory.holders) == (6, 6, (("a", 6),))
    memory.hold("b", 4)


def test_a_release_of_nothing_is_refused() -> None:
    memory = Memory("cpu")
    memory.hold("a", 1)
    with pytest.raises(HoldError, match="cpu: b releases, but holds nothing; held: a 1 B"):
        memory.release("b")


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(HoldError, match="cpu: a asks for -1 bytes, expected 0 or more"):
        Memory("cpu").hold("a", -1)
    with pytest.raises(HoldError, match="cpu: budget is -1 bytes, expected 0 or more"):
        Memory("cpu", -1)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        (0, 0),
        (4096, 4096),
        ("17 B", 17),
        ("8 GB", 8 * 10**9),
        ("8GB", 8 * 10**9),
        ("2 kB", 2000),
        ("2 KB", 2000),
        ("2 KiB", 2048),
        ("70 GiB", 70 * 2**30),
        ("1.5 MiB", 3 * 2**19),
        ("0.1 TB", 10**11),
        ("1.7 B", 1),
        (None, None),
    ],
)
def test_sizes_are_read(text: object, num_bytes: int | None) -> None:
    assert budgets_from({"cpu": text}) == {"cpu": num_bytes}


@pytest.mark.parametrize(
    "size",
    [
        -1, 1.5, True, "", "8", "GB", "8 gb", "8 Gb", "-8 GB", "8 GB!", "1e9 B", "1,5 GB", "٣ GB",
        "8 GB\n", [8],
    ],
)  # fmt: skip
def test_what_is_no_size_is_refused(size: object) -> None:
    with pytest.raises(ConfigError) as caught:
        budgets_from({"cpu": "1 GB", "gpu": size}, where="machine.memory")
    assert str(caught.value).startswith(
        "machine.memory.gpu: expected bytes, or a size such as '8 GB' (units: B, KiB, MiB,"
    )
    assert str(caught.value).endswith(f"got {size!r}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("8 GB", "memory: expected a mapping of memories to sizes, got '8 GB'"),
        ({0: "8 GB"}, "memory: expected the name of a memory, got 0"),
    ],
)
def test_what_is_no_mapping_of_names_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        budgets_from(data)


def test_budgets_keep_the_order_of_the_file() -> None:
    assert list(budgets_from({"gpu": 1, "cpu": 2})) == ["gpu", "cpu"]


def test_human_sizes_keep_a_decimal_above_a_kibibyte() -> None:
    sizes = (0, 1, 1023, 1024, 98362432, 1 << 40, 5000 << 50)
    assert [human_size(n) for n in sizes] == [
        "0 B", "1 B", "1023 B", "1.0 KiB", "93.8 MiB", "1.0 TiB", "5000.0 PiB",
    ]  # fmt: skip
