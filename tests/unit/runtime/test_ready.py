"""A launch is ready once all that it waits for has finished, and not before."""

from __future__ import annotations

from specinfer.runtime.ready import ReadyQueue


def test_a_launch_without_dependences_is_ready_at_once() -> None:
    assert ReadyQueue().submitted(0, ()) == [0]


def test_a_launch_waits_for_all_of_its_dependences() -> None:
    ready = ReadyQueue()
    ready.submitted(0, ())
    ready.submitted(1, ())
    assert ready.submitted(2, {0, 1}) == []
    assert ready.finished(1) == []
    assert ready.finished(0) == [2]


def test_a_chain_becomes_ready_one_by_one() -> None:
    ready = ReadyQueue()
    assert [ready.submitted(id, {id - 1} if id else ()) for id in range(3)] == [[0], [], []]
    assert [ready.finished(id) for id in range(3)] == [[1], [2], []]


def test_one_launch_may_make_many_ready_in_program_order() -> None:
    ready = ReadyQueue()
    for id in range(4):
        ready.submitted(id, {0} if id else ())
    assert ready.finished(0) == [1, 2, 3]


def test_dependences_that_have_finished_count_for_nothing() -> None:
    ready = ReadyQueue()
    ready.submitted(0, ())
    ready.finished(0)
    assert ready.submitted(1, {0}) == [1]


def test_dependences_never_submitted_count_for_nothing() -> None:
    assert ReadyQueue().submitted(5, {3}) == [5]


def test_tells_what_has_yet_to_finish() -> None:
    ready = ReadyQueue()
    assert not ready.unfinished()
    ready.submitted(0, ())
    ready.submitted(1, {0})
    ready.finished(0)
    assert ready.unfinished()
    assert ready.unfinished([0, 1])
    assert not ready.unfinished([0])
    assert not ready.unfinished([])
