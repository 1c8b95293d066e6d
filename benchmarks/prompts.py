"""The prompt sets of ``benchmarks/data``, and the reference outputs made with other software."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import DATA
from specinfer.scheduler.llm import Prompt

SETS = ("humaneval", "mtbench", "piqa")


@dataclass(frozen=True, slots=True)
class Reference:
    """What greedy decoding in float64 gives for one prompt.

    Attributes:
        id: of the prompt in its set.
        prompt_ids: token ids of the prompt.
        output_ids: token ids of the output.
        gaps: for each output token, its logit less the second largest.
    """

    id: str
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    gaps: Sequence[float]


def prompt_set(name: str) -> dict[str, Prompt]:
    """Prompts by id, in order: HumanEval as raw text, the others as chats of one message."""
    if name == "humaneval":
        return {line["task_id"]: line["prompt"] for line in _lines(DATA / "HumanEval.jsonl.gz")}
    if name == "mtbench":
        questions = _lines(DATA / "mt_bench_question.jsonl")
        return {str(q["question_id"]): _chat(q["turns"][0]) for q in questions}
    if name == "piqa":
        return {g["id"]: _chat(g["prompt"]) for g in _lines(DATA / "piqa_goals_100.jsonl")}
    if name == "repetitive":
        return {p["id"]: _chat(p["prompt"]) for p in _lines(DATA / "repetitive.jsonl")}
    raise ValueError(f"prompt set {name!r}: expected one of {SETS} or 'repetitive'")


def references(model: str) -> tuple[dict[str, list[Reference]], Mapping[str, Any]]:
    """The committed reference outputs of a model by set, and the file's ``meta``."""
    data = read_json(DATA / "reference" / f"greedy_{model}.json.gz")
    sets = {
        name: [
            Reference(str(e["id"]), e["prompt_ids"], e["output_ids"], e["gaps"]) for e in entries
        ]
        for name, entries in data["sets"].items()
    }
    return sets, data["meta"]


def read_json(path: Path) -> Any:
    """The content of a JSON file, packed with gzip or not."""
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def write_json_gz(path: Path, value: Any) -> None:
    """Write compact JSON, packed; equal values give equal bytes."""
    text = json.dumps(value, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _lines(path: Path) -> list[Any]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
