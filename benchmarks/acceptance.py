"""How many tokens a verification step yields, for trees of several widths.

The LLM's greedy texts are written once; the SSM then reads along, and the rank that it gives each
token of the LLM tells (:mod:`benchmarks.replay`) how often the token is among its likeliest, and
what any expansion would have yielded. Some prompts are then really generated with each expansion:
counted must equal replayed. The same figures from ranks computed in float64 with other software
stand beside ours.

    python -m benchmarks.acceptance            # with the models
    python -m benchmarks.acceptance --replay   # from the committed ranks, in a second
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.cache import Cache
from benchmarks.exactness import compare
from benchmarks.prompts import prompt_set, read_json, references, write_json_gz
from benchmarks.replay import (
    EXPANSIONS,
    WIDTHS,
    expansion,
    label,
    replay,
    tokens_per_step,
    top,
)
from benchmarks.report import DATA, RESULTS, Row, commit, device, markdown, plot, write
from benchmarks.writing import STDERR, follow, load
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.llm import LLM, Prompt
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators.ssm import SSMSpeculator, level_sizes

LARGE, SMALL = "qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b"
RANKS = DATA / "ranks_qwen2.5-coder.json.gz"
REFERENCE_RANKS = DATA / "reference" / "ranks_qwen2.5-coder_full.json.gz"
NODES = max(sum(level_sizes(widths)) for widths in EXPANSIONS)

Ranks = Mapping[str, Mapping[str, Sequence[int]]]
"""Ranks of each output token by prompt id, by set."""


def ranks_of(ssm: Decoder, prompt: Sequence[int], output: Sequence[int]) -> list[int]:
    """How many tokens the SSM holds likelier than each token of the LLM's output.

    The prompt is computed as chains, the output as one path of uncommitted nodes: of these rows all
    logits can be had.
    """
    ssm.slots.reserve(0, len(prompt) + len(output))
    chunk = ssm.model.limits.nodes
    for start in range(0, len(prompt) - 1, chunk):
        chain = prompt[start : min(start + chunk, len(prompt) - 1)]
        ssm.step([Work(request=0, chain=chain, chain_logits=False)])
    path = output[:-1]
    work = Work(request=0, chain=prompt[-1:], tokens=path, parents=range(-1, len(path) - 1))
    logits = ssm.model.runtime.read(ssm.step([work]))
    ranks: list[int] = (logits > logits[range(len(output)), list(output)][:, None]).sum(1).tolist()
    ssm.slots.release(0)
    return ranks


def prompts_of(limit: int) -> dict[str, Prompt]:
    """The prompts of the reference file, or the first of each set, by ``set/id``."""
    sets, _ = references(LARGE)
    return {
        f"{name}/{entry.id}": prompt_set(name)[entry.id]
        for name, entries in sets.items()
        for entry in entries[: limit or None]
    }


class Models:
    """The LLM and the SSM, read when first asked for.

    Args:
        requests: most requests at once.
    """

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._front = LLM(LARGE)

    @cached_property
    def llm(self) -> Decoder:
        """The LLM, with room for the widest tree."""
        return load(LARGE).decoder(requests=self._requests, nodes=NODES)

    @cached_property
    def ssm(self) -> Decoder:
        """The SSM, with the same room."""
        return load(SMALL).decoder(requests=self._requests, nodes=NODES)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt."""
        return self._front.encode(prompt)

    def write(
        self, prompts: Mapping[str, Prompt], widths: Sequence[int], tokens: int, cache: Cache
    ) -> None:
        """Write the texts that the cache does not have; no ``widths``: without speculation.

        Cache keys are the prompts' keys, behind the expansion if there is one.
        """
        prefix = f"{label(widths)}/" if widths else ""
        missing = {f"{prefix}{key}": p for key, p in prompts.items() if prefix + key not in cache}
        if not missing:
            return
        engine = Engine(self.llm, [SSMSpeculator(SMALL, self.ssm, widths)] if widths else [])
        eos = self._front.tokenizer.eos_ids
        for number, prompt in enumerate(missing.values()):
            ids = self.encode(prompt)
            engine.submit(Request(id=number, prompt=ids, max_new_tokens=tokens, eos_ids=eos))
        follow(engine.run(), dict(enumerate(missing)), cache, label(widths))


def measure(
    models: Models, prompts: Mapping[str, Prompt], outputs: Mapping[str, Any], cache: Cache
) -> dict[str, dict[str, list[int]]]:
    """Ranks of the LLM's tokens under the SSM."""
    missing = [key for key in prompts if key not in cache]
    for key in track(missing, "ranking", console=STDERR):
        ids = models.encode(prompts[key])
        cache[key] = ranks_of(models.ssm, ids, outputs[key]["output"])
    return _by_set({key: cache[key] for key in prompts})


def live(
    models: Models, prompts: Mapping[str, Prompt], tokens: int, per_set: int, cache: Cache
) -> dict[str, Any]:
    """Generate the first prompts of each set with every expansion.

    Returns:
        What :func:`benchmarks.writing.follow` keeps, by ``expansion/set/id``.
    """
    found: dict[str, Any] = {}
    for widths in EXPANSIONS:
        for name, texts in _by_set(prompts).items():
            chosen = {f"{name}/{key}": texts[key] for key in list(texts)[:per_set]}
            models.write(chosen, widths, tokens, cache)
            keys = [f"{label(widths)}/{key}" for key in chosen]
            found |= {key: cache[key] for key in keys}
    return found


def _by_set(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    sets: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        name, _, prompt = key.partition("/")
        sets.setdefault(name, {})[prompt] = value
    return sets


def rank_rows(ranks: Ranks, reference: Ranks, where: str = "") -> Iterator[Row]:
    """Table 1 and tokens per step of every set, beside those from the reference's ranks."""
    for name, requests in ranks.items():
        ours = list(requests.values())
        theirs = [reference[name][i] for i in requests if i in reference.get(name, {})]
        for k in WIDTHS:
            yield Row(
                name=f"{where}{name}/top-{k}",
                value=top(ours, k),
                unit="fraction",
                against={"float64 reference": top(theirs, k)} if theirs else {},
            )
        for widths in EXPANSIONS:
            yield Row(
                name=f"{where}{name}/{label(widths)}",
                value=tokens_per_step(ours, widths),
                unit="tokens per step",
                against=({"float64 reference": tokens_per_step(theirs, widths)} if theirs else {}),
            )


def live_rows(found: Mapping[str, Any], ranks: Ranks) -> Iterator[Row]:
    """Tokens per step counted in real runs, beside the replay of the same prompts."""
    groups: dict[tuple[str, str], list[tuple[Any, list[int]]]] = {}
    for key, value in found.items():
        widths, name, prompt = key.split("/", 2)
        cut = list(ranks[name][prompt])[: len(value["output"])]
        groups.setdefault((name, widths), []).append((value, cut))
    expansions = {label(widths): widths for widths in EXPANSIONS}
    for (name, widths), pairs in groups.items():
        steps = sum(value["steps"] for value, _ in pairs)
        tokens = sum(value["step_tokens"] for value, _ in pairs)
        replayed = [tokens for _, cut in pairs for tokens in replay(cut, expansions[widths])]
        yield Row(
            name=f"live/{name}/{widths}",
            value=tokens / steps,
            unit="tokens per step",
            against={
                "replay": sum(replayed) / len(replayed),
                "steps": steps,
                "replayed steps": len(replayed),
                "prompts": len(pairs),
            },
        )


def agreement_rows(outputs: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    """Whether the texts ranked here, and those of the live runs, are the reference's."""
    sets, _ = references(LARGE)
    for name, entries in sets.items():
        texts = {e.id: e for e in entries}
        for kind, values in (("plain", outputs), ("live", found)):
            mine = {k: v["output"] for k, v in values.items() if f"{name}/" in k}
            wrong = 0
            for key, text in mine.items():
                entry = texts[key.partition(f"{name}/")[2]]
                expected = entry.output_ids[: len(text)]
                difference = compare(text, expected, entry.output_ids, entry.gaps)
                wrong += difference is not None and not difference.is_tie
            if mine:
                yield Row(
                    name=f"{kind} texts/{name}/mismatches",
                    value=wrong,
                    unit="texts",
                    against={"texts": len(mine)},
                )


def rank_agreement(ranks: Ranks, reference: Ranks, cap: int) -> Row:
    """At how many positions the SSM's rank is the reference's, both cut off at ``cap``."""
    pairs = [
        (min(a, cap), min(b, cap))
        for name, requests in ranks.items()
        for prompt, ours in requests.items()
        if len(ours) == len(reference.get(name, {}).get(prompt, ()))
        for a, b in zip(ours, reference[name][prompt], strict=True)
    ]
    return Row(
        name="ranks equal to the float64 reference's",
        value=sum(a == b for a, b in pairs),
        unit="positions",
        against={"positions": len(pairs)},
    )


def read_ranks(path: Path) -> tuple[dict[str, dict[str, list[int]]], Mapping[str, Any]]:
    """Ranks of a file by set and prompt, and its ``meta``."""
    data = read_json(path)
    sets = {name: {str(e["id"]): e["ranks"] for e in es} for name, es in data["sets"].items()}
    return sets, data["meta"]


def save_ranks(path: Path, ranks: Ranks, meta: Mapping[str, Any]) -> None:
    """Write ranks in the form that :func:`read_ranks` reads."""
    sets = {
        name: [{"id": i, "ranks": list(r)} for i, r in requests.items()]
        for name, requests in ranks.items()
    }
    write_json_gz(path, {"meta": dict(meta), "sets": sets})


def table(rows: Sequence[Row], prefix: str) -> str:
    """Rows of one kind, sets across."""
    kept = [row for row in rows if row.name.startswith(prefix)]
    names = list(dict.fromkeys(row.name.removeprefix(prefix).split("/")[0] for row in kept))
    labels = list(dict.fromkeys(row.name.split("/", prefix.count("/") + 1)[-1] for row in kept))
    by_name = {row.name.removeprefix(prefix): row for row in kept}
    lines = []
    for what in labels:
        cells: list[object] = [what]
        for name in names:
            row = by_name[f"{name}/{what}"]
            other = row.against.get("float64 reference", row.against.get("replay"))
            cells.append(f"{row.value:.3f}" + (f" ({other:.3f})" if other is not None else ""))
        lines.append(cells)
    return markdown(["", *names], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code: 1 if a text or a live count is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--replay", action="store_true", help="use the committed ranks, no models")
    parser.add_argument("--limit", type=int, default=0, help="only the first prompts of each set")
    parser.add_argument("--tokens", type=int, default=128, help="most new tokens")
    parser.add_argument("--requests", type=int, default=16, help="requests at once")
    parser.add_argument("--live", type=int, default=3, help="prompts of each set to generate")
    parser.add_argument("--live-tokens", type=int, default=128, help="most new tokens of these")
    parser.add_argument("--cache", type=Path, help="folder of finished prompts, to go on from")
    parser.add_argument("--out", default="", help="name of the result file")
    parser.add_argument("--ranks", type=Path, default=RANKS, help="file to keep the ranks in")
    options = parser.parse_args(arguments)
    reference, meta = read_ranks(REFERENCE_RANKS)
    outputs: dict[str, Any] = {}
    found: dict[str, Any] = {}
    if options.replay:
        ranks, _ = read_ranks(options.ranks)
    else:
        ranks, outputs, found = _run(options)
    rows = list(rank_rows(ranks, reference))
    rows += rank_rows(reference, {}, "full sets, float64/")
    rows += [rank_agreement(ranks, reference, meta["cap"]), *agreement_rows(outputs, found)]
    rows += live_rows(found, ranks)
    _print(rows, ranks)
    name = options.out or ("acceptance_replay" if options.replay else "acceptance")
    print(write(name, rows))
    _plot(ranks, name)
    wrong = [row for row in rows if row.name.endswith("mismatches") and row.value]
    off = [r for r in rows if r.name.startswith("live/") and r.value != r.against["replay"]]
    return 1 if wrong or off else 0


def _run(
    options: argparse.Namespace,
) -> tuple[dict[str, dict[str, list[int]]], dict[str, Any], dict[str, Any]]:
    prompts, models = prompts_of(options.limit), Models(options.requests)
    name = f"{LARGE}-float32-{options.tokens}"
    cache = Cache(options.cache, f"{name}-plain")
    models.write(prompts, (), options.tokens, cache)
    outputs = {key: cache[key] for key in prompts}
    ranks = measure(models, prompts, outputs, Cache(options.cache, f"{name}-ranks"))
    meta = {"llm": LARGE, "ssm": SMALL, "dtype": "float32", "device": device(), "commit": commit()}
    save_ranks(options.ranks, ranks, meta)
    cache = Cache(options.cache, f"{LARGE}-float32-{options.live_tokens}-live")
    found = live(models, prompts, options.live_tokens, options.live, cache)
    return ranks, outputs, found


def _print(rows: Sequence[Row], ranks: Ranks) -> None:
    plain = [row for row in rows if row.name.split("/")[0] in ranks]
    print(f"Ours, with the float64 reference on the same prompts in brackets:\n{table(plain, '')}")
    whole = "full sets, float64/"
    print(f"\nFull sets, float64 with other software:\n{table(rows, whole)}")
    if any(row.name.startswith("live/") for row in rows):
        print(f"\nLive, with the replay in brackets:\n{table(rows, 'live/')}")
    for row in rows:
        if row.name.endswith(("mismatches", "reference's")):
            print(f"{row.name}: {row.value:g} {row.unit} of {dict(row.against)}")


def _plot(ranks: Ranks, name: str) -> None:
    curves = {
        key: {float(k): tokens_per_step(requests.values(), expansion(k)) for k in WIDTHS}
        for key, requests in ranks.items()
    }
    plot(RESULTS / f"{name}.png", curves, x="k of <1,1,k,1,1,1,1,1>", y="tokens per LLM step")


if __name__ == "__main__":
    sys.exit(main())
