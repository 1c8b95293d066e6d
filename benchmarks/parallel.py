"""Whether a model divided over ranks writes what one rank writes.

The command line is run as its user would: alone, and under ``mpirun -n N`` with
``--set parallel.tensor=N``; float32, greedy, with speculation. Nothing else differs.

    python -m benchmarks.parallel smollm2-135m --ranks 2 3 4
    python -m benchmarks.parallel qwen2.5-coder-1.5b --draft qwen2.5-coder-0.5b --ranks 2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.progress import track

from benchmarks.prompts import prompt_set
from benchmarks.ranks import YIELDING, mpirun
from benchmarks.report import Row, markdown, write
from benchmarks.writing import STDERR


def generate(ranks: int, options: Sequence[str]) -> tuple[list[list[int]], float]:
    """Tokens of each prompt, and seconds with the loading of weights."""
    own = ["-m", "specinfer", "generate", "--json", "--quiet", *options]
    divided = mpirun(ranks, *own, "--set", f"parallel.tensor={ranks}")
    command = divided if ranks > 1 else [sys.executable, *own]
    environment = {**os.environ, **YIELDING}
    start = perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = perf_counter() - start
    said: dict[str, Any] = json.loads(done.stdout)
    return [result["output_tokens"] for result in said["results"]], seconds


def main() -> None:
    """Run all, compare, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--draft", default="ngram")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    prompts = [_text(prompt) for prompt in prompt_set("mtbench").values()]
    prompts = prompts[:: len(prompts) // args.prompts][: args.prompts]
    rows, lines = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("\n".join(json.dumps(prompt) for prompt in prompts))
        options = ["--model", args.model, "--draft", args.draft, "--file", str(file)]
        options += ["--max-new-tokens", str(args.tokens)]
        expected: list[list[int]] = []
        for ranks in track([1, *args.ranks], args.model, console=STDERR):
            texts, seconds = generate(ranks, options)
            expected = expected or texts
            equal = sum(one == other for one, other in zip(texts, expected, strict=True))
            tokens = sum(map(len, texts))
            lines.append((ranks, len(texts), tokens, equal, seconds))
            rows.append(
                Row(
                    name=f"{args.model}/{ranks} ranks/equal texts",
                    value=equal,
                    unit="texts",
                    against={"prompts": len(texts), "tokens": tokens, "seconds": seconds},
                )
            )
    print(markdown(("ranks", "prompts", "tokens", "as on one rank", "seconds"), lines))
    print(write(f"parallel_{args.model}", rows))
    if any(equal < len(expected) for _, _, _, equal, _ in lines):
        sys.exit(1)


def _text(prompt: Any) -> str:
    """The question of a chat."""
    return str(prompt[0]["content"])


if __name__ == "__main__":
    main()
