"""The laws of pages and of the batcher are worth something: each bug planted here is found.

A planted bug is an edit of one method's text. When that method is rewritten the edit no longer
fits, and the test says so; plant the bug anew.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

import pytest
from batcher_laws import simulate

from specinfer.scheduler.batcher import Batcher
from specinfer.scheduler.kv_pages import KVPages
from specinfer.scheduler.speculation import Speculation

NUM_SEEDS = 12
BUGS: dict[tuple[type, str], dict[str, tuple[str, str]]] = {
    # Pages
    (KVPages, "admit"): {
        "found pages are not held": ("self._hold(page)", "pass"),
        "idle pages that are found count as room": ("num_new + num_idle", "num_new"),
    },
    (KVPages, "_find"): {
        "a page is found whatever stands before it": (
            "_digest(digest, tokens",
            "_digest(b'', tokens",
        ),
        "the whole text may be found": (
            "len(tokens) - PAGE_SLOTS, PAGE",
            "len(tokens) - PAGE_SLOTS + 1, PAGE",
        ),
    },
    (KVPages, "share"): {
        "equal text is held twice": ("self._hold(same)", "pass"),
        "the page that is given up stays": ("self._let_go(own)", "pass"),
        "a page is found by its first tokens": (
            "(at + 1) * PAGE_SLOTS]",
            "(at + 1) * PAGE_SLOTS - 1]",
        ),
    },
    (KVPages, "release"): {
        "scratch is not given back": ("self._free_scratch.append(held.scratch)", "pass"),
        "the last page is not given back": ("reversed(held.pages)", "held.pages[:-1]"),
    },
    (KVPages, "_let_go"): {
        "what others hold is free": ("if self._num_holders[page]:", "if False:"),
    },
    (KVPages, "_take"): {
        "what was in a page is still found": (
            "del self._page_of[self._digest_of.pop(page)]",
            "self._digest_of.pop(page)",
        ),
    },
    # The batcher
    (Batcher, "_take"): {
        "the batcher does not know what was written": ("text.take(outcome.tokens)", "pass"),
    },
    (Batcher, "abandon"): {
        "what broke off goes on": ("self._preempt()", "break"),
        "what was written before it broke off is lost": ("self._take(outcomes)", "self._take({})"),
    },
    (Batcher, "_preempt"): {
        "the oldest is preempted": ("self._running.pop()", "self._running.pop(0)"),
        "who is preempted waits behind all": ("appendleft", "append"),
        "who is preempted is lost": ("self._waiting.appendleft(youngest)", "pass"),
        "who is preempted keeps its pages": ("self._give_back(youngest)", "pass"),
    },
    (Batcher, "_admit"): {
        "more run than may": ("< self._budgets.requests", "<= self._budgets.requests"),
        "nobody is admitted beside another": ("spare=len", "spare=99 * len"),
        "prompts of all sizes need a page for who is alone": ("len(self._running))", "9)"),
    },
    (Batcher, "_decodes"): {
        "trees are deeper than the rest of the text": ("num_remaining - 1", "num_remaining"),
        "trees are deeper than pages": (
            "depth = self._llm.capacity(text.id) - len(text.tokens)",
            "pass",
        ),
        "trees are deeper than their nodes": ("min(n, decode.depth)", "decode.depth"),
        "trees are as deep as budgets allow, whatever their requests do": (
            "text.speculation.depth(min(self._budgets.depth, text.num_remaining - 1))",
            "min(self._budgets.depth, text.num_remaining - 1)",
        ),
        "trees have more nodes than their requests allow": (
            "text.speculation.max_nodes or self._budgets.nodes",
            "self._budgets.nodes",
        ),
    },
    (Batcher, "begin"): {
        "an iteration's own budgets are forgotten": ("budgets or self._usual", "self._usual"),
        "roots take no rows": (
            "rows = self._budgets.rows - len(decoding)",
            "rows = self._budgets.rows",
        ),
        "trees take the prompts' share": (
            "rows - min(pending, self._budgets.prefill_rows)",
            "rows",
        ),
        "trees and prompts take the same rows": (
            "rows -= sum(decode.nodes for decode in decodes)",
            "pass",
        ),
        "the youngest prompts go first": (
            "self._chunks(self._llm, prefilling, rows)",
            "self._chunks(self._llm, prefilling[::-1], rows)",
        ),
    },
    (Batcher, "_chunks"): {
        "chunks all have the same rows": ("rows -= stop - start", "pass"),
        "every chunk is the last": ("is_last=stop == len(text.tokens)", "is_last=True"),
    },
    (Batcher, "_drafts"): {
        "SSMs compute as many rows as the LLM": (
            "self._budgets.draft_rows or self._budgets.rows",
            "self._budgets.rows",
        ),
    },
    (Batcher, "submit"): {
        "what a request allows is forgotten": ("request.speculation,", ""),
    },
    (Speculation, "depth"): {
        "who allows nothing has trees": ("if not self.enabled:", "if False:"),
        "trees are deeper than allowed": ("min(room, self.max_depth)", "room"),
    },
    (Batcher, "_is_decoding"): {
        "a text that goes on is decoded before it is computed": (
            "text.has_output and self._num_pending(text) == 1",
            "text.has_output",
        ),
        "a prompt is decoded": ("text.has_output and ", ""),
    },
    (Batcher, "_has_room"): {
        "the older make room for the younger": ("other.id in pool][-1]", "other.id in pool][0]"),
        "an SSM has no room for trees": (
            "pool.grow(text.id, length + depth)",
            "pool.grow(text.id, length)",
        ),
    },
    (Batcher, "_give_back"): {
        "SSMs keep what the LLM gives back": ("self._pools)", "self._pools[:1])"),
    },
    (Batcher, "_let_leave"): {
        "who leaves keeps its pages": ("self._give_back(text)", "pass"),
        "who is cancelled waits on": (
            "deque(text for text in self._waiting if not text.is_leaving)",
            "self._waiting",
        ),
    },
    (Batcher, "cancel"): {
        "pages are freed under an iteration": ("if self._in_flight is None:", "if True:"),
    },
}


def finds() -> bool:
    """Whether the laws are broken for one of some seeds, which are always the same."""
    for seed in range(NUM_SEEDS):
        try:
            simulate(seed, num_requests=60)
        except Exception:
            return True
    return False


def test_without_a_bug_nothing_is_found() -> None:
    assert not finds()


@pytest.mark.parametrize(
    ("owner", "method", "bug"),
    [pytest.param(*where, bug, id=bug) for where, edits in BUGS.items() for bug in edits],
)
def test_finds(owner: type, method: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = BUGS[owner, method][bug]
    source = textwrap.dedent(inspect.getsource(getattr(owner, method)))
    assert old in source, f"{method} has changed: no {old!r} in it; plant the bug anew"
    planted: dict[str, Any] = {}
    source = "from __future__ import annotations\n" + source.replace(old, new)
    exec(source, vars(sys.modules[owner.__module__]), planted)
    monkeypatch.setattr(owner, method, planted[method])
    assert finds()
