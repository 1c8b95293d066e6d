"""Wall-clock speed on this machine's CPU. Run it while nothing else runs.

Three parts: how the time of a step grows with its rows, which says what a guess costs; incremental
decoding against transformers with the same weights; and speculation against incremental decoding,
on prompts whose answers repeat them and on ordinary ones.

    python -m benchmarks.cpu_speed smollm2-135m
    python -m benchmarks.cpu_speed qwen2.5-coder-1.5b --prompts 4 --tokens 64 --repeats 2
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, stdev
from time import perf_counter
from typing import Any

import torch
from rich.progress import track

from benchmarks.exactness import first_difference
from benchmarks.prompts import prompt_set
from benchmarks.replay import label
from benchmarks.report import RESULTS, Row, markdown, plot, write
from benchmarks.writing import STDERR, Loaded, load
from specinfer.models.packing import factors, pack_weights
from specinfer.scheduler.config import NGram
from specinfer.scheduler.decoder import Decoder, Work
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.llm import LLM
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Speculator
from specinfer.scheduler.speculators.ngram import NGramSpeculator
from specinfer.scheduler.speculators.ssm import DEFAULT_EXPANSION, SSMSpeculator, level_sizes
from specinfer.scheduler.step_cost import FREE, measure_step_cost

SSMS = {"smollm2-135m": None, "qwen2.5-coder-1.5b": "qwen2.5-coder-0.5b"}
"""Models that can be measured, with the SSM that speculates for each, if there is one."""

EXPANSIONS = (DEFAULT_EXPANSION, (1, 1, 1, 1))
TREE_ROWS = (1, 2, 4, 8, 16, 32, 64)
PREFIX = 64
NODES = 64


def step_rows(name: str, model: Loaded, repeats: int) -> Iterator[Row]:
    """Time of one step by tree rows, behind a prefix of 64 tokens; sizes take turns."""
    decoder = model.decoder(requests=1, nodes=NODES, length=2 * PREFIX)
    decoder.slots.reserve(0, PREFIX)
    decoder.step([Work(request=0, chain=range(1000, 1000 + PREFIX), chain_logits=False)])
    works = {rows: _tree(rows) for rows in TREE_ROWS}
    for work in works.values():
        decoder.step([work])
    times: dict[int, list[float]] = {rows: [] for rows in TREE_ROWS}
    for _ in track(range(repeats), f"{name} steps", console=STDERR):
        for rows, work in works.items():
            start = perf_counter()
            decoder.step([work])
            times[rows].append(1000 * (perf_counter() - start))
    one = median(times[TREE_ROWS[0]])
    for rows, found in times.items():
        yield Row(
            name=f"{name}/step/{rows} rows",
            value=median(found),
            unit="ms",
            spread=stdev(found),
            against={"times one row": median(found) / one},
        )


def _tree(rows: int) -> Work:
    """A binary tree of uncommitted nodes; it is computed anew each time and never committed."""
    parents = [-1, *((node - 1) // 2 for node in range(1, rows))]
    return Work(request=0, tokens=range(2000, 2000 + rows), parents=parents)


def write_text(
    decoder: Decoder, drafts: Sequence[Speculator], request: Request
) -> tuple[list[int], float, Engine]:
    """Write one text; return its tokens and the seconds from its first token to its last."""
    engine = Engine(decoder, drafts)
    engine.submit(request)
    start = end = 0.0
    for event in engine.run():
        if event.tokens:
            start, end = start or perf_counter(), perf_counter()
    return list(request.output), end - start, engine


def transformers_model(model: Loaded) -> Any:
    """The same weights, in the same memory, in transformers' model."""
    import transformers

    config = dict(model.checkpoint.config)
    keys = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    )
    kind = "Llama" if config["model_type"] == "llama" else "Qwen2"
    settings = getattr(transformers, f"{kind}Config")(
        **{key: config[key] for key in keys},
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        dtype=model.dtype,
    )
    with torch.device("meta"):
        network = getattr(transformers, f"{kind}ForCausalLM")(settings)
    network.load_state_dict(model.weights, strict=False, assign=True)
    network.tie_weights()
    network.model.rotary_emb = type(network.model.rotary_emb)(settings)
    tensors = [*network.named_parameters(), *network.named_buffers()]
    wrong = [name for name, tensor in tensors if tensor.device.type == "meta"]
    if wrong:
        raise RuntimeError(f"transformers' {kind} has no weights for {wrong}")
    return network.eval()


@torch.inference_mode()
def transformers_text(network: Any, prompt: Sequence[int], tokens: int) -> tuple[list[int], float]:
    """Greedy decoding by hand; return the tokens and the seconds from the first to the last."""
    from transformers import DynamicCache

    cache, ids = DynamicCache(), torch.tensor([list(prompt)])
    output: list[int] = []
    start = 0.0
    for _ in range(tokens):
        logits = network(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids = logits[:, -1:].argmax(-1)
        output.append(int(ids))
        start = start or perf_counter()
    return output, perf_counter() - start


def decode_rows(name: str, model: Loaded, prompt: Sequence[int], options: Any) -> Iterator[Row]:
    """Tokens a second of incremental decoding, ours and transformers' in turn."""
    decoder = model.decoder(requests=1, nodes=1)
    network = transformers_model(model)
    tokens = options.tokens
    speeds: dict[str, list[float]] = {"ours": [], "transformers": []}
    agree = tokens
    for turn in track(range(options.repeats + 1), f"{name} decode", console=STDERR):
        request = Request(id=0, prompt=prompt, max_new_tokens=tokens)
        ours, our_seconds, _ = write_text(decoder, (), request)
        theirs, their_seconds = transformers_text(network, prompt, tokens)
        difference = first_difference(ours, theirs)
        agree = agree if difference is None else min(agree, difference)
        if turn > 0:  # the first warms up
            speeds["ours"].append((tokens - 1) / our_seconds)
            speeds["transformers"].append((tokens - 1) / their_seconds)
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["transformers"], strict=True)]
    for who, found in speeds.items():
        yield _speed_row(f"{name}/decode/{who}", found, {"equal tokens": agree, "of": tokens})
    yield Row(
        name=f"{name}/decode/ours over transformers",
        value=median(ratios),
        unit="times",
        spread=stdev(ratios) if len(ratios) > 1 else None,
    )


def _speed_row(name: str, speeds: Sequence[float], against: Mapping[str, Any]) -> Row:
    spread = stdev(speeds) if len(speeds) > 1 else None
    return Row(
        name=name, value=median(speeds), unit="tokens/s", spread=spread, against=dict(against)
    )


def speculation_rows(
    where: str, model: Loaded, ssm: Loaded | None, front: LLM, options: Any
) -> Iterator[Row]:
    """Speculation against incremental decoding, one request at a time, in turn."""
    nodes = max(NGram().ngram, *(sum(level_sizes(widths)) for widths in EXPANSIONS))
    decoder = model.decoder(requests=1, nodes=nodes)
    modes = _modes(model, ssm.decoder(requests=1, nodes=nodes) if ssm else None)
    for name, prompts in _prompts(options.prompts).items():
        texts: dict[str, dict[str, list[int]]] = {mode: {} for mode in modes}
        runs: dict[str, list[_Run]] = {mode: [] for mode in modes}
        jobs = [(repeat, key) for repeat in range(options.repeats) for key in prompts]
        for repeat, key in track(jobs, f"{where} {name}", console=STDERR):
            ids = front.encode(prompts[key])
            for mode, drafts in modes.items():
                request = Request(
                    id=0,
                    prompt=ids,
                    max_new_tokens=options.tokens,
                    eos_ids=front.tokenizer.eos_ids,
                )
                output, seconds, engine = write_text(decoder, drafts(), request)
                runs[mode].append(_Run(repeat, len(output) - 1, seconds, engine.stats.num_steps))
                texts[mode][key] = output
        yield from _mode_rows(f"{where}/{name}", runs, texts)


@dataclass(frozen=True, slots=True)
class _Run:
    """One text: tokens behind its first, the time they took, and verification steps."""

    repeat: int
    tokens: int
    seconds: float
    steps: int


def _modes(model: Loaded, ssm: Decoder | None) -> dict[str, Callable[[], list[Speculator]]]:
    """Ways of decoding, each with what makes its speculators anew for every text."""
    most = NGram().ngram
    weights = pack_weights(model.program, model.weights)
    cost = measure_step_cost([weights[name] for name in factors(model.program)])
    modes: dict[str, Callable[[], list[Speculator]]] = {
        "incremental": list,
        "n-gram": lambda: [NGramSpeculator(most, cost=cost)],
        f"n-gram, always up to {most} nodes": lambda: [NGramSpeculator(most, cost=FREE)],
    }
    if ssm is not None:
        for widths in EXPANSIONS:
            modes[f"SSM {label(widths)}"] = partial(_ssm, ssm, widths)
    return modes


def _ssm(decoder: Decoder, widths: Sequence[int]) -> list[Speculator]:
    return [SSMSpeculator("ssm", decoder, widths)]


def _prompts(count: int) -> dict[str, dict[str, Any]]:
    """The same number of prompts of each set, spread over it."""
    chosen = {}
    for name in ("repetitive", "mtbench", "humaneval"):
        prompts = prompt_set(name)
        keys = list(prompts)[:: max(1, len(prompts) // count)][:count]
        chosen[name] = {key: prompts[key] for key in keys}
    return chosen


def _mode_rows(
    where: str, runs: Mapping[str, list[_Run]], texts: Mapping[str, Mapping[str, list[int]]]
) -> Iterator[Row]:
    plain = runs["incremental"]
    for mode, found in runs.items():
        gains = [a.seconds / b.seconds for a, b in zip(plain, found, strict=True) if b.seconds]
        differ = sum(text != texts["incremental"][key] for key, text in texts[mode].items())
        speeds = _speeds(found)
        against = {
            "over incremental": median(speeds) / median(_speeds(plain)),
            "least and most on a prompt": [min(gains), max(gains)],
            "tokens per step": sum(r.tokens for r in found) / max(1, sum(r.steps for r in found)),
            "texts that differ": differ,
            "prompts": len(texts[mode]),
        }
        yield _speed_row(f"{where}/{mode}", speeds, against)


def _speeds(runs: Sequence[_Run]) -> list[float]:
    """Tokens a second over all texts, of every repeat."""
    repeats = [[run for run in runs if run.repeat == r] for r in {run.repeat for run in runs}]
    return [sum(r.tokens for r in turn) / sum(r.seconds for r in turn) for turn in repeats]


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """All parts asked for, type by type."""
    front = LLM(options.model)
    for kind in options.dtypes:
        dtype = getattr(torch, kind)
        model, where = load(options.model, dtype), f"{options.model}/{kind}"
        if "steps" in options.parts:
            yield from step_rows(where, model, 5 * options.repeats)
        if "decode" in options.parts:
            prompt = front.encode(prompt_set("mtbench")["81"])
            yield from decode_rows(where, model, prompt, options)
        if "speculation" in options.parts:
            name = SSMS[options.model]
            ssm = load(name, dtype) if name else None
            yield from speculation_rows(where, model, ssm, front, options)
            del ssm
        del model
        gc.collect()


def table(rows: Sequence[Row]) -> str:
    """All figures, a line each."""
    lines = [
        [
            row.name,
            f"{row.value:.2f}" + ("" if row.spread is None else f" ± {row.spread:.2f}"),
            row.unit,
            ", ".join(f"{key} {_short(value)}" for key, value in row.against.items()),
        ]
        for row in rows
    ]
    return markdown(["what", "median ± spread", "unit", "against"], lines)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_short, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _plot(rows: Sequence[Row], name: str) -> None:
    curves: dict[str, dict[float, float]] = {}
    for row in rows:
        where, _, size = row.name.partition("/step/")
        if size:
            curves.setdefault(where, {})[float(size.split()[0])] = row.against["times one row"]
    if curves:
        plot(RESULTS / f"{name}.png", curves, x="rows of a step", y="time, in steps of one row")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = ("steps", "decode", "speculation")
    parser.add_argument("model", choices=sorted(SSMS))
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=("float32", "bfloat16"),
        default=("float32", "bfloat16"),
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every text; steps: five times")
    parser.add_argument("--tokens", type=int, default=96, help="most new tokens of a text")
    parser.add_argument("--prompts", type=int, default=12, help="of each set, for speculation")
    parser.add_argument("--out", default="", help="name of the result file")
    options = parser.parse_args(arguments)
    rows = list(measure(options))
    name = options.out or f"cpu_speed_{options.model}"
    print(table(rows))
    print(write(name, rows))
    _plot(rows, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
