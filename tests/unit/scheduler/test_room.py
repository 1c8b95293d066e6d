"""Rooms follow from what has been read, and hold what can follow from that."""

from __future__ import annotations

from specinfer.models.batch import StepShape
from specinfer.scheduler.iteration import Admitted, Budgets, Chunk, Decode, Iteration
from specinfer.scheduler.request import Request
from specinfer.scheduler.room import PROMPT_ROWS, Rooms

BUDGETS = Budgets(rows=1000, requests=4, chunk=500, nodes=6, depth=3, draft_rows=400)


def request(id: int, prompt: int = 10, output: int = 0) -> Request:
    made = Request(id=id, prompt=[1] * prompt, max_new_tokens=100)
    made.take([2] * output)
    return made


def running(rooms: Rooms, *ids: int) -> None:
    """They were admitted, and both models have all of their texts."""
    chunks = tuple(Chunk(id, 0, 1, is_last=True) for id in ids)
    admitted = tuple(Admitted(id, 0) for id in ids)
    rooms.read(Iteration(admitted=admitted, chunks=chunks, drafts=(chunks,), freed=((), ())))


def test_trees_of_all_that_decode() -> None:
    rooms = Rooms(BUDGETS, [[2, 4]])
    running(rooms, 0, 1)
    room = rooms.next({id: request(id, output=1) for id in (0, 1)})
    assert room.llm == StepShape(2 * 7, 2, 2 * 7)
    assert room.ssms == ((StepShape(2 * 3, 2, 2), StepShape(4, 2, 4)),)
    assert (room.budgets.rows, room.budgets.draft_rows) == (14, 6)
    assert room.budgets.nodes == BUDGETS.nodes


def test_no_more_requests_than_run_at_once() -> None:
    room = Rooms(BUDGETS, []).next({id: request(id) for id in range(9)})
    assert room.llm == StepShape(4 * 7 + PROMPT_ROWS, 4, 4 * 7)
    assert room.ssms == ()


def test_texts_that_are_not_computed_yet() -> None:
    rooms, prompt = Rooms(BUDGETS, [[2, 4]]), request(0, prompt=300)
    assert rooms.next({0: prompt}).llm.rows == 7 + PROMPT_ROWS  # it may have to wait for pages
    freed = ((), ())
    rooms.read(
        Iteration(
            admitted=(Admitted(0, 0),), chunks=(Chunk(0, 0, 50, False),), drafts=((),), freed=freed
        )
    )
    room = rooms.next({0: prompt})
    assert room.llm.rows == 7 + 256  # 250, by steps of 64
    assert room.ssms[0][0].rows == 3  # it is asked when the LLM has all of it
    rooms.read(Iteration(chunks=(Chunk(0, 50, 300, True),), drafts=((),), freed=freed))
    prompt.take([5])
    room = rooms.next({0: prompt})
    assert room.llm.rows == 7
    assert room.ssms[0][0].rows == 3 + 320
    decodes, drafts = (Decode(0, 6, 3),), ((Chunk(0, 0, 301, True),),)
    rooms.read(Iteration(decodes=decodes, drafts=drafts, freed=freed))
    assert rooms.next({0: prompt}).ssms[0][0].rows == 3


def test_a_preempted_text_is_lacked_again() -> None:
    rooms = Rooms(BUDGETS, [[2, 4]])
    running(rooms, 0)
    rooms.read(Iteration(preempted=(0,), freed=((0,), (0,)), drafts=((),)))
    long = request(0, prompt=200, output=3)
    room = rooms.next({0: long})
    assert (room.llm.rows, room.ssms[0][0].rows) == (7 + PROMPT_ROWS, 3 + PROMPT_ROWS)
    rooms.read(Iteration(admitted=(Admitted(0, 0),), freed=((), ()), drafts=((),)))
    assert rooms.next({0: long}).llm.rows == 7 + 256


def test_never_more_than_the_models_were_made_for() -> None:
    rooms = Rooms(BUDGETS, [[2, 4]])
    freed, many = ((), ()), {id: request(id, prompt=900, output=1) for id in range(4)}
    rooms.read(
        Iteration(admitted=tuple(Admitted(id, 0) for id in range(4)), freed=freed, drafts=((),))
    )
    room = rooms.next(many)
    assert (room.llm.rows, room.ssms[0][0].rows) == (BUDGETS.rows, BUDGETS.draft_rows)
