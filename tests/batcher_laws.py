"""Carries out a batcher's iterations on a memory of tokens, and holds its laws.

The K/V of a token are here the token and a hash of all before it, written where the slot table
says. What "the model" writes next depends on what it reads back through the slot table, so a page
that was freed, shared or found wrongly changes a text; each must be the one that is written without
any scheduler.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from zlib import crc32

import numpy as np

from specinfer.ops.attention import PAGE_SLOTS
from specinfer.scheduler.batcher import Batcher
from specinfer.scheduler.iteration import Budgets, Chunk, Decode, Iteration, Outcome
from specinfer.scheduler.kv_pages import KVPages
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculation import UNLIMITED, Speculation

VOCABULARY, END = 200, 199
Choose = Callable[[int, int], int]
"""A number from the first to the second, both included."""


def next_token(text: Sequence[int]) -> int:
    """What follows a text: anything, but always the same."""
    return crc32(bytes(text)) % VOCABULARY


def kv(tokens: Sequence[int], start: int, stop: int) -> list[int]:
    """K/V of some tokens of a text: each depends on all before it."""
    found, before = [], crc32(bytes(tokens[:start]))
    for token in tokens[start:stop]:
        found.append(before << 8 | token)
        before = crc32(bytes([token]), before)
    return found


def written_alone(prompt: Sequence[int], max_new_tokens: int) -> list[int]:
    """The output of a request that nobody schedules."""
    text = list(prompt)
    for _ in range(max_new_tokens):
        text.append(next_token(text))
        if text[-1] == END:
            break
    return text[len(prompt) :]


@dataclass
class Told:
    """A request, and until when it must have ended."""

    request: Request
    deadline: int
    tokens: list[int] = field(default_factory=list)


class World:
    """A batcher, its pools, their memories, and everyone who was ever submitted."""

    def __init__(self, budgets: Budgets, num_pages: Sequence[int], choose: Choose) -> None:
        self.usual = self.budgets = budgets
        self.pools = [KVPages(n, budgets.requests + 1, max(1, budgets.nodes)) for n in num_pages]
        self.memories = [np.full(pool.num_slots, -1) for pool in self.pools]
        self.batcher = Batcher(budgets, self.pools[0], self.pools[1:], self.allocate)
        self.choose = choose
        self.told: list[Told] = []
        self.live: dict[int, Told] = {}
        self.num_submitted = self.num_ended = self.num_preempted = self.num_found = 0
        self.num_iterations = self.num_accepted = self.num_drafts = self.num_limited = 0
        self.holders: list[set[int]] = [set() for _ in self.pools]
        self.running: list[int] = []
        self.in_flight: Iteration | None = None

    # What comes in

    def submit(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        speculation: Speculation = UNLIMITED,
    ) -> None:
        request = Request(
            id=self.num_submitted,
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            eos_ids=frozenset({END}),
            speculation=speculation,
        )
        self.num_submitted += 1
        self.batcher.submit(request)
        ahead = [told.request for told in self.live.values()]
        own = sum(self.alone(r) for r in [*ahead, request])
        # The iteration in flight began before.
        deadline = self.num_iterations + own + (self.in_flight is not None)
        self.told.append(Told(request, deadline, list(prompt)))
        self.live[request.id] = self.told[-1]

    def alone(self, request: Request) -> int:
        """Iterations of a request that goes first, chunks and then a token each, from nothing."""
        share = min(self.usual.chunk, prefill_rows(self.usual))
        return -(-len(request.prompt) // share) - 1 + request.max_new_tokens

    def cancel(self, request: int) -> None:
        assert self.batcher.cancel(request)
        assert not self.batcher.cancel(request)
        del self.live[request]
        self.num_ended += 1
        if self.in_flight is None:
            self.running = [other for other in self.running if other != request]

    def allocate(self, decodes: Sequence[Decode], rows: int) -> list[int]:
        """Any division there is."""
        shares = []
        for decode in decodes:
            shares.append(self.choose(0, min(rows, decode.nodes)))
            rows -= shares[-1]
        return shares

    # An iteration

    def step(self) -> None:
        self.begin()
        self.finish()

    def begin(self, budgets: Budgets | None = None) -> None:
        """Begin an iteration, with budgets of its own or those of all."""
        self.budgets = budgets or self.usual
        done = self.in_flight = self.batcher.begin(budgets)
        self.num_iterations += 1
        if budgets is not None:  # it may do next to nothing
            for told in self.live.values():
                told.deadline += 1
        self.num_preempted += len(done.preempted)
        self.num_found += sum(admitted.cached > 0 for admitted in done.admitted)
        self.num_drafts += sum(map(len, done.drafts))
        self.check_order(done)
        self.check_budgets(done)
        self.check_told(done)

    def check_order(self, done: Iteration) -> None:
        running, waiting = self.batcher.running, self.batcher.waiting
        assert running + waiting == sorted(self.live), "none lost, none doubled, first come first"
        assert not set(done.preempted) & {admitted.request for admitted in done.admitted}
        assert set(done.preempted) <= set(self.running), "who runs is preempted"
        if self.running:
            assert self.running[0] not in done.preempted, "never the oldest"
        if self.live:
            assert running, "who is alone runs"
            first = running[0]
            computed = sum(c.num_rows for c in done.chunks if c.request == first)
            decoded = [d for d in done.decodes if d.request == first]
            left = len(self.live[first].tokens) - self.pools[0].length(first)
            share = min(prefill_rows(self.budgets), self.budgets.chunk)
            assert decoded or computed >= min(share, left), "the oldest goes on"
        assert set(self.running) - set(done.preempted) <= set(running), "who runs goes on"
        llm = self.pools[0]
        lengths = [len(self.live[request].tokens) for request in [*running, *waiting[:1]]]
        pending = [n - llm.length(r) for n, r in zip(lengths, running, strict=False)]
        if (
            waiting
            and not done.preempted
            and len(running) < self.budgets.requests
            and sum(min(n, self.budgets.chunk) for n in pending) < self.budgets.rows
        ):
            needed = -(-lengths[-1] // PAGE_SLOTS) + len(running)
            assert needed > llm.num_available, "who has room runs"
        self.running = running

    def check_told(self, done: Iteration) -> None:
        """Who holds K/V is who was told to be admitted or asked, less who was told to be freed."""
        joined = [[admitted.request for admitted in done.admitted]]
        joined += [[chunk.request for chunk in chunks] for chunks in done.drafts]
        for model, (held, pool) in enumerate(zip(self.holders, self.pools, strict=True)):
            held -= set(done.freed[model])
            held |= set(joined[model])
            # An SSM may have made room for one that then gets no rows.
            assert held == set(pool.requests) if model == 0 else held <= set(pool.requests)

    def check_budgets(self, done: Iteration) -> None:
        budgets, llm = self.budgets, self.pools[0]
        assert done.num_rows <= budgets.rows
        assert len(self.running) <= budgets.requests
        for decode in done.decodes:
            remaining = self.remaining(decode.request)
            assert 0 <= decode.depth <= min(decode.nodes, budgets.depth, remaining - 1)
            assert 0 <= decode.nodes <= budgets.nodes
            self.check_allowed(decode)
            room = llm.capacity(decode.request) - llm.length(decode.request)
            assert room >= 1 + decode.depth, "what is accepted has pages"
        pending = {r: len(self.live[r].tokens) - llm.length(r) for r in self.running}
        decoding = [
            r
            for r in self.running
            if pending[r] == 1 and len(self.live[r].tokens) > len(self.live[r].request.prompt)
        ]
        assert [decode.request for decode in done.decodes] == decoding, "each has its root's row"
        to_compute = sum(min(pending[r], budgets.chunk) for r in self.running if r not in decoding)
        computed = sum(chunk.num_rows for chunk in done.chunks)
        assert computed >= min(to_compute, prefill_rows(self.budgets)), "prompts have their share"
        for model, chunks in enumerate((done.chunks, *done.drafts)):
            rows = (model and budgets.draft_rows) or budgets.rows
            assert sum(chunk.num_rows for chunk in chunks) <= rows
            for chunk in chunks:
                length = len(self.live[chunk.request].tokens)
                assert chunk.start == self.pools[model].length(chunk.request)
                assert 0 < chunk.num_rows <= budgets.chunk
                assert chunk.stop <= length
                assert chunk.is_last == (chunk.stop == length)
        worth = {decode.request for decode in done.decodes if decode.nodes}
        assert all(chunk.request in worth for chunks in done.drafts for chunk in chunks)

    def check_allowed(self, decode: Decode) -> None:
        """No request has a tree that it does not allow."""
        allowed = self.told[decode.request].request.speculation
        self.num_limited += allowed != UNLIMITED
        if not allowed.enabled:
            assert decode.nodes == 0
        if allowed.max_nodes:
            assert decode.nodes <= allowed.max_nodes
        if allowed.max_depth:
            assert decode.depth <= allowed.max_depth

    def remaining(self, request: int) -> int:
        told = self.told[request]
        return told.request.max_new_tokens + len(told.request.prompt) - len(told.tokens)

    def finish(self) -> None:
        done = self.in_flight
        assert done is not None
        outcomes = {}
        for ssm, chunks in enumerate(done.drafts, start=1):
            for chunk in chunks:
                self.compute(ssm, chunk)
        trees = [{chunk.request for chunk in chunks if chunk.is_last} for chunks in done.drafts]
        for chunk in done.chunks:
            self.compute(0, chunk)
            if chunk.is_last:
                outcomes[chunk.request] = self.outcome(chunk.request, [self.predict(chunk.request)])
        for decode in done.decodes:
            outcomes[decode.request] = self.decode(decode, trees)
        self.batcher.finish(outcomes)
        self.leave(outcomes)
        assert self.running == self.batcher.running
        self.check_pools()
        for told in self.live.values():
            assert self.num_iterations < told.deadline, "nobody starves"

    def break_off(self) -> None:
        """Some models have computed something, and some requests have got their tokens."""
        done = self.in_flight
        assert done is not None
        outcomes = {}
        for chunk in done.chunks:
            if self.choose(0, 1):
                self.pools[0].commit(chunk.request, self.choose(0, chunk.num_rows))
        for decode in done.decodes:
            if self.choose(0, 1):
                outcomes[decode.request] = self.decode(decode, ())
        self.batcher.abandon(outcomes)
        self.leave(outcomes)
        assert not self.batcher.running
        assert not any(pool.requests for pool in self.pools)
        self.running = []
        self.check_pools()
        own = [self.alone(told.request) for told in self.live.values()]
        for at, told in enumerate(self.live.values()):  # all begin anew
            told.deadline = self.num_iterations + sum(own[: at + 1])

    def leave(self, outcomes: dict[int, Outcome]) -> None:
        """Look at the texts that have ended."""
        self.in_flight = None
        for request, outcome in outcomes.items():
            if outcome.has_ended and request in self.live:
                told = self.live.pop(request)
                prompt = told.request.prompt
                alone = written_alone(prompt, told.request.max_new_tokens)
                assert told.tokens == [*prompt, *alone], "the text is that of the request alone"
                self.num_ended += 1
        self.running = [request for request in self.running if request in self.live]

    def outcome(self, request: int, tokens: list[int]) -> Outcome:
        """Take tokens as an engine does: up to the end of the text."""
        told = self.told[request]
        tokens = tokens[: self.remaining(request)]
        if END in tokens:
            tokens = tokens[: tokens.index(END) + 1]
        told.tokens += tokens
        return Outcome(tokens, tokens[-1:] == [END] or self.remaining(request) == 0)

    # What models do

    def compute(self, model: int, chunk: Chunk) -> None:
        """Write the K/V of a chunk, even if who wants it was cancelled meanwhile."""
        self.check_memory(model, chunk.request)
        self.write(model, chunk.request, self.told[chunk.request].tokens[chunk.start : chunk.stop])

    def check_memory(self, model: int, request: int) -> None:
        length = self.pools[model].length(request)
        slots = self.pools[model].committed(request, 0, length)
        assert self.memories[model][slots].tolist() == kv(self.told[request].tokens, 0, length)

    def write(self, model: int, request: int, tokens: Sequence[int]) -> None:
        """Commit tokens that follow what a model has of a text."""
        pool = self.pools[model]
        start, stop = pool.length(request), pool.length(request) + len(tokens)
        text = [*self.read(model, request), *tokens]
        self.memories[model][pool.committed(request, start, stop)] = kv(text, start, stop)
        pool.commit(request, len(tokens))

    def read(self, model: int, request: int) -> list[int]:
        """The tokens of a text, by their K/V."""
        pool = self.pools[model]
        slots = pool.committed(request, 0, pool.length(request))
        tokens: list[int] = (self.memories[model][slots] & 255).tolist()
        return tokens

    def predict(self, request: int) -> int:
        """What the LLM writes behind what it has computed."""
        return next_token(self.read(0, request))

    def decode(self, decode: Decode, trees: Sequence[set[int]]) -> Outcome:
        """Verify a tree of which any number of levels is right."""
        request = decode.request
        pool, memory = self.pools[0], self.memories[0]
        self.check_memory(0, request)
        self.write(0, request, self.told[request].tokens[-1:])
        accepted: list[int] = []
        scratch = pool.scratch(request)
        memory[scratch] = -1
        for level in range(self.choose(0, decode.depth)):
            accepted.append(next_token([*self.read(0, request), *accepted]))
            memory[scratch[level]] = accepted[-1]
        tokens = [*accepted, next_token([*self.read(0, request), *accepted])]
        outcome = self.outcome(request, tokens)
        if not outcome.has_ended:
            self.write(0, request, memory[scratch[: len(accepted)]].tolist())
            self.num_accepted += len(accepted)
            for ssm, drafted in enumerate(trees, start=1):
                if request in drafted:  # of its tree's path it has computed some
                    self.write(ssm, request, accepted[: self.choose(0, len(accepted))])
        return outcome

    # What is held

    def check_pools(self) -> None:
        for pool in self.pools:
            held = {
                page
                for request in pool.requests
                for page in pool.pages(request, pool.capacity(request)).tolist()
            }
            assert pool.num_available == pool.num_pages - len(held), "no page is lost"
            assert 0 not in held
        assert set(self.pools[0].requests) == set(self.running)
        assert all(set(pool.requests) <= set(self.running) for pool in self.pools)

    def drain(self) -> None:
        """Iterate until all have ended, and see that nothing is left."""
        if self.in_flight is not None:
            self.finish()
        while not self.batcher.is_idle:
            self.step()
        assert not self.live
        assert self.num_ended == self.num_submitted
        for pool in self.pools:
            assert pool.num_available == pool.num_pages
            assert not pool.requests
        self.begin()
        assert self.in_flight is not None
        assert self.in_flight.num_rows == 0
        assert not any(self.holders), "each leave was told"
        self.batcher.finish({})
        self.in_flight = None


def prefill_rows(budgets: Budgets) -> int:
    """Rows that prompts can count on while all but one of the requests decode."""
    rows, others = budgets.rows, budgets.requests - 1
    return max(1, min(ceil(rows * budgets.prefill_share), rows - others))


def random_speculation(choose: Choose) -> Speculation:
    """What a request allows: half of them everything."""
    some = Speculation(choose(0, 3) > 0, max_nodes=choose(0, 3), max_depth=choose(0, 2))
    return some if choose(0, 1) else UNLIMITED


def fewer(budgets: Budgets, choose: Choose, running: int) -> Budgets:
    """Budgets of one iteration: less, down to a row for each request that runs."""
    requests = choose(max(1, running), budgets.requests)
    return replace(
        budgets,
        rows=choose(requests, budgets.rows),
        requests=requests,
        nodes=choose(0, budgets.nodes),
        depth=choose(0, budgets.depth),
        draft_rows=choose(0, budgets.draft_rows),
    )


def random_prompt(choose: Choose, most: int) -> list[int]:
    """Whole pages of few kinds, then anything: texts begin alike."""
    kinds = [[0] * PAGE_SLOTS, [1] * PAGE_SLOTS, [0] * (PAGE_SLOTS - 1) + [1]]
    pages = [kinds[choose(0, 2)] for _ in range(choose(0, most // PAGE_SLOTS))]
    end = [choose(0, VOCABULARY - 1) for _ in range(choose(0 if pages else 1, 8))]
    return [*(token for page in pages for token in page), *end]


def random_budgets(rng: random.Random) -> Budgets:
    requests = rng.randint(1, 8)
    share = rng.choice([0.0, 0.25, 0.5])
    return Budgets(
        rows=rng.randint(requests, rng.choice([requests, 60])),
        requests=requests,
        chunk=rng.choice([1, 5, 16, 60]),
        nodes=rng.choice([0, 1, 8]),
        depth=rng.choice([1, 4, 20]),
        prefill_share=share,
        draft_rows=rng.choice([0, 0, 1, 7, 40]),
    )


def simulate(seed: int, num_requests: int) -> World:
    """Random requests at random times, some of them cancelled, in pools far too small for all."""
    rng = random.Random(seed)
    budgets = random_budgets(rng)
    world = World(budgets, [rng.randint(9, 12), rng.randint(2, 12), 8], rng.randint)
    while world.num_submitted < num_requests:
        for _ in range(rng.choice([0, 0, 1, 1, 2, 9])):
            world.submit(
                random_prompt(rng.randint, 48), rng.randint(1, 80), random_speculation(rng.randint)
            )
        if world.live and rng.random() < 0.1:
            world.cancel(rng.choice(sorted(world.live)))
        world.begin(fewer(budgets, rng.randint, len(world.running)) if rng.random() < 0.1 else None)
        if world.live and rng.random() < 0.1:
            world.cancel(rng.choice(sorted(world.live)))
        if rng.random() < 0.03:
            world.break_off()
        else:
            world.finish()
    world.drain()
    return world
