"""The end of a text: however tokens arrive, it is the same; what is shown early stays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st
from unit.models.checkpoint_files import train_backend

from specinfer.models.tokenizer import TextStream, Tokenizer
from specinfer.scheduler.request import Request
from specinfer.scheduler.sampling.params import SamplingParams
from specinfer.scheduler.stopping import Stopping, StopText

TOKENIZER = Tokenizer(train_backend(), eos_ids=[2])
EOS = frozenset({2})
STOP = frozenset({5, 6})


class Pieces(TextStream):
    """A stream whose token n is the n-th piece of a text."""

    def __init__(self, pieces: Sequence[str]) -> None:
        super().__init__(TOKENIZER)
        self._pieces_by_token = pieces

    def _decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces_by_token[token] for token in ids)


def runs(tokens: Sequence[int], cuts: Sequence[int]) -> list[Sequence[int]]:
    """The tokens, divided at some places."""
    bounds = [0, *sorted({cut for cut in cuts if 0 < cut < len(tokens)}), len(tokens)]
    return [tokens[a:b] for a, b in pairwise(bounds)]


def request(strings: Sequence[str], most: int, least: int) -> Request:
    return Request(
        id=0,
        prompt=[1],
        max_new_tokens=most,
        eos_ids=EOS,
        stop_ids=STOP,
        sampling=SamplingParams(min_new_tokens=least),
        text=StopText(TextStream(TOKENIZER), strings),
    )


def some_strings(draw: st.DrawFn, text: str) -> list[str]:
    """Stop strings, most of them from the text."""
    strings = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, max(0, len(text) - 1)))
        strings.append(text[start : start + draw(st.integers(1, 6))] or "x")
    return strings


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], list[str], int, int]:
    tokens = draw(st.lists(st.integers(3, TOKENIZER.vocab_size - 1), min_size=1, max_size=20))
    if draw(st.booleans()):
        tokens.insert(draw(st.integers(0, len(tokens))), 2)
    strings = some_strings(draw, TOKENIZER.decode(tokens))
    most = draw(st.integers(1, len(tokens)))
    return tokens, strings, most, draw(st.integers(0, most))


def reference(
    tokens: Sequence[int], strings: Sequence[str], most: int, least: int
) -> tuple[list[int], str, str | None]:
    """Output, text and reason by looking at every beginning of the text anew."""
    done = 0  # characters in which stop strings were looked for
    for count in range(1, len(tokens) + 1):
        stream = TextStream(TOKENIZER)
        token, may_stop = tokens[count - 1], count > least
        is_stop = may_stop and token in STOP
        text = "".join(stream.feed([token]) for token in tokens[: count - is_stop])
        is_end = is_stop or (may_stop and token in EOS) or count == most
        for end in range(1, 3 if is_end else 2):
            text += stream.finish() if end == 2 else ""
            ends = [
                (stop, stop - len(string))
                for string in strings
                for stop in range(max(done + 1, len(string)), len(text) + 1)
                if text[:stop].endswith(string)
            ]
            if ends and may_stop:
                return list(tokens[:count]), text[: min(ends)[1]], "stop"
            done = len(text)
        if is_end:
            is_eos = may_stop and token in EOS
            return (
                list(tokens[:count]),
                text,
                "eos" if is_eos else "stop" if is_stop else "length",
            )
    raise AssertionError("a text has an end")


@given(cases(), st.lists(st.integers(1, 20)))
def test_any_division_into_runs_gives_the_same_end(
    case: tuple[list[int], list[str], int, int], cuts: list[int]
) -> None:
    tokens, strings, most, least = case
    asked = request(strings, most, least)
    kept: list[int] = []
    for run in runs(tokens, cuts):
        if asked.finish_reason is None:
            kept += asked.take(run)
    assert asked.text is not None
    assert kept == asked.output
    found = (asked.output, asked.text.text, asked.finish_reason)
    assert found == reference(tokens, strings, most, least)


@given(cases())
def test_what_is_sure_stays(case: tuple[list[int], list[str], int, int]) -> None:
    """Nothing that was shown is taken back, or is the beginning of the stop string."""
    tokens, strings, most, least = case
    asked = request(strings, most, least)
    assert asked.text is not None
    shown = [""]
    for token in tokens:
        asked.take([token])
        shown.append(asked.text.text)
        assert shown[-1].startswith(shown[-2])
        if asked.finish_reason:
            break


@given(st.data())
def test_the_cut_does_not_depend_on_tokens(data: st.DataObject) -> None:
    text = data.draw(st.text("ab", min_size=1, max_size=12))
    strings = data.draw(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
    ends = [
        (end, end - len(s))
        for s in strings
        for end in range(len(s), len(text) + 1)
        if text[:end].endswith(s)
    ]
    assume(ends)
    cuts = data.draw(st.lists(st.integers(1, 12)))
    pieces = ["".join(piece) for piece in runs(list(text), cuts)]  # type: ignore[arg-type]
    stop = StopText(Pieces(pieces), strings)
    assert any(stop.feed(number) for number in range(len(pieces)))
    assert stop.text == text[: min(ends)[1]]


@given(st.text("ab", max_size=12), st.text("abc", min_size=1, max_size=4))
def test_only_what_may_become_a_stop_string_is_held_back(text: str, string: str) -> None:
    stop = StopText(Pieces(text), [string])
    for number in range(len(text)):
        if stop.feed(number):
            return
        so_far = text[: number + 1]
        held = len(so_far) - stop.num_sure
        assert string.startswith(so_far[len(so_far) - held :])
        assert not any(string.startswith(so_far[k:]) for k in range(stop.num_sure))


def test_what_was_complete_too_early_is_not_found_later() -> None:
    """Nor is it held back: a stop string that did not count is text."""
    stop = StopText(Pieces(["xab", "c", "ab"]), ["ab", "abcd"])
    assert not stop.feed(0, may_stop=False)
    assert (stop.text, stop.num_sure) == ("x", 1), "it may become the longer one"
    assert not stop.feed(1)
    assert stop.feed(2)
    assert stop.text == "xabc"
    stop = StopText(Pieces(["xab"]), ["ab", "wxyz"])
    assert not stop.feed(0, may_stop=False)
    assert stop.text == "xab"


def read(stop: StopText, tokens: Sequence[int]) -> str:
    """The text of all tokens, up to a stop string."""
    if not any(stop.feed(token) for token in tokens):
        stop.finish()
    return stop.text


@given(cases(), st.integers(0, 20))
def test_another_one_knows_nothing_of_the_first(
    case: tuple[list[int], list[str], int, int], num_read: int
) -> None:
    tokens, strings, *_ = case
    first = StopText(TextStream(TOKENIZER), strings)
    any(first.feed(token) for token in tokens[:num_read])
    seen = first.text
    text = read(first.anew(), tokens)
    assert first.text == seen
    assert text == read(StopText(TextStream(TOKENIZER), strings), tokens)


def test_a_token_that_is_both_ends_the_text_as_the_model_meant_it() -> None:
    both = Stopping(max_new_tokens=3, eos_ids=EOS, stop_ids=EOS)
    assert both.take(2, 0) == "eos"
