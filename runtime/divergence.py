"""Ranks that issued different things: what differs first, said for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specinfer.runtime.answer import MEANS, PLACE
from specinfer.runtime.wording import MARK

Told = tuple[int, str, tuple[tuple[str, str], ...]]
"""An entry of a history as others are sent it: its number, what it is, each argument by name."""

_ANSWERS = {PLACE: "puts", MEANS: "takes"}
"""What is no argument but a mapper's answer, and what the mapper does with it."""


def first_difference(told: Mapping[int, Sequence[Told]]) -> str | None:
    """What ranks issued first that is not the same; None if they issued the same.

    Args:
        told: what each rank tells, by rank.

    >>> same = (11, "fence", ())
    >>> def scale(factor):
    ...     return (12, "launch 9, scale", (("x", "RW x"), ("factor", factor)))
    >>> first_difference({0: [same, scale("2")], 1: [same, scale("3")]})
    'launch 9, scale(x=RW x, factor=...): factor is 2 on rank 0 and 3 on rank 1'
    >>> first_difference({0: [same], 1: [same, scale("3")]})
    'rank 0 issued nothing more, rank 1 went on with launch 9, scale(x=RW x, factor=3)'
    """
    start = max((entries[0][0] for entries in told.values() if entries), default=0)
    aligned = {
        rank: {entry[0]: entry[1:] for entry in entries if entry[0] >= start}
        for rank, entries in told.items()
    }
    end = max((max(entries, default=-1) for entries in aligned.values()), default=-1)
    for number in range(start, end + 1):
        at = {rank: entries.get(number) for rank, entries in aligned.items()}
        if len(set(at.values())) > 1:
            return _difference(at)
    return None


_Issued = tuple[str, tuple[tuple[str, str], ...]]


def _difference(at: Mapping[int, _Issued | None]) -> str:
    there = {rank: issued for rank, issued in at.items() if issued is not None}
    if len(there) < len(at):
        missing = [rank for rank in at if rank not in there]
        went_on = _by_text({rank: what + _listed(args, ()) for rank, (what, args) in there.items()})
        return f"{ranks_text(missing)} issued nothing more, " + " and ".join(
            f"{ranks_text(ranks)} went on with {text}" for text, ranks in went_on
        )
    names = {(what, tuple(name for name, _ in args)) for what, args in there.values()}
    if len(names) == 1:
        arguments = {rank: dict(args) for rank, (_, args) in there.items()}
        what, listed = next(iter(there.values()))
        for name, _ in listed:
            texts = {rank: given[name] for rank, given in arguments.items()}
            if len(set(texts.values())) > 1:
                if name in _ANSWERS:
                    return f"{what}{_listed(listed, ())}: {_answers(_ANSWERS[name], texts)}"
                shown = {rank: _shown(text) for rank, text in texts.items()}
                if len(set(shown.values())) == 1:  # the names are the same, what they mean is not
                    shown = {rank: text.replace(MARK, ": ") for rank, text in texts.items()}
                values = " and ".join(f"{text} on {ranks_text(r)}" for text, r in _by_text(shown))
                return f"{what}{_listed(listed, (name,))}: {name} is {values}"
    whole = {rank: what + _listed(args, ()) for rank, (what, args) in there.items()}
    return " and ".join(f"{text} on {ranks_text(ranks)}" for text, ranks in _by_text(whole))


def _answers(does: str, texts: Mapping[int, str]) -> str:
    """What the mappers of ranks do with the first part that they do not agree on."""
    answers = {rank: text.split("; ") for rank, text in texts.items()}
    fewest = min(map(len, answers.values()))
    differing = (n for n in range(fewest) if len({parts[n] for parts in answers.values()}) > 1)
    at = next(differing, None)
    first = {
        rank: parts[at] if at is not None else "; ".join(parts) for rank, parts in answers.items()
    }
    return ", ".join(
        f"the mapper of {ranks_text(ranks)} {does} {text}" for text, ranks in _by_text(first)
    )


def _listed(arguments: Sequence[tuple[str, str]], hidden: Sequence[str]) -> str:
    shown = [
        f"{name}={'...' if name in hidden else _shown(text)}"
        for name, text in arguments
        if name not in _ANSWERS
    ]
    return f"({', '.join(shown)})" if shown else ""


def ranks_text(ranks: Sequence[int]) -> str:
    """Some ranks, for people."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _shown(text: str) -> str:
    """Without what tells regions of the same name apart."""
    return text.partition(MARK)[0]


def _by_text(texts: Mapping[int, str]) -> list[tuple[str, list[int]]]:
    grouped: dict[str, list[int]] = {}
    for rank, text in texts.items():
        grouped.setdefault(text, []).append(rank)
    return list(grouped.items())
