"""Where prompts come from."""

from __future__ import annotations

import ast
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from unit.scheduler.boosting import write_llm

from specinfer.models.checkpoint import open_checkpoint
from specinfer.models.tokenizer import Tokenizer
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.boost.config import EvaluationConfig, PromptConfig
from specinfer.scheduler.boost.gathering import gather, gather_text
from specinfer.scheduler.boost.sources import function_heads, heads_of, is_permissive, python_files
from specinfer.scheduler.boost.tasks import task_heads

SOURCE = '''
import os

class Thing:
    def method(self, names: List[str]) -> Optional[int]:
        """Look for a name, and say where it is.

        >>> 1
        """
        return None

    def short(self):
        """No."""
        return 1

def only_documented():
    """A function without a body has nothing to be continued."""

def plain(x):
    return x
'''


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return open_checkpoint(write_llm(tmp_path / "llm")).tokenizer()


def test_a_head_ends_with_its_docstring_and_brings_its_imports() -> None:
    (head,) = heads_of(SOURCE)
    imports, _, rest = head.partition("\n\n\n")
    assert imports == "from typing import List, Optional"
    assert rest.startswith("def method(self, names: List[str]) -> Optional[int]:\n")
    assert rest.endswith('>>> 1\n    """\n')
    ast.parse(head + "    return 0\n")


def test_what_is_no_python_gives_no_head() -> None:
    assert list(heads_of("def f(:")) == list(heads_of("\0")) == []


def test_folders_are_searched_and_heads_come_once(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "c.txt"):
        (tmp_path / name).write_text(SOURCE)
    (tmp_path / "bad.py").write_bytes(b"\xff")
    files = python_files([str(tmp_path)])
    assert [file.name for file in files] == ["a.py", "b.py", "bad.py"]
    assert len(function_heads(files)) == 1
    with pytest.raises(ConfigError, match="nowhere"):
        python_files([str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("metadata", "permissive"),
    [
        ([("License-Expression", "MIT")], True),
        ([("License-Expression", "Apache-2.0 AND GPL-3.0")], False),
        ([("Classifier", "License :: OSI Approved :: BSD License")], True),
        ([("Classifier", "Topic :: MIT")], False),
        ([("License", "BSD 3-Clause")], True),
        ([("License", "LGPL")], False),
        ([], False),
    ],
)
def test_only_permissive_packages_are_read(
    metadata: list[tuple[str, str]], permissive: bool
) -> None:
    class Package:
        metadata = Message()

    package: Any = Package()
    for key, value in metadata:
        package.metadata[key] = value
    assert is_permissive(package) is permissive


def test_made_up_heads_can_be_continued() -> None:
    heads = task_heads(300, seed=1)
    assert heads == task_heads(300, seed=1)
    assert len({*heads}) == 300
    for head in heads:
        assert head == head.rstrip(" ") or head.endswith("\n   ")
        ast.parse(head + ' x\n    """\n    return 0\n')


def test_sets_do_not_overlap_and_chats_are_laid_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "test.jsonl").write_text('{"prompt": "Mars is"}\n\n"the tree"\n{"turns": ["Hi"]}')
    (tmp_path / "more.jsonl").write_text('{"prompt": "Mars is"}\n{"prompt": "the trees"}')
    config = PromptConfig(files=(str(tmp_path / "more.jsonl"),), functions=0, tasks=40)
    evaluation = EvaluationConfig(held_out=5, files=(str(tmp_path / "test.jsonl"),))
    sets = gather(config, evaluation, tokenizer)
    assert [*sets] == ["test", "held-out", "train"]
    texts = {
        name: [
            tokenizer.decode(c.prompt(n).tolist(), skip_special_tokens=False) for n in range(len(c))
        ]
        for name, c in sets.items()
    }
    assert texts["test"][:2] == ["Mars is", "the tree"]
    assert texts["test"][2].startswith("<|im_start|>user")
    assert len(texts["held-out"]) == 5
    assert len({*texts["held-out"], *texts["train"]}) == 41  # "Mars is" is only measured on
    assert sets["train"].num_outputs == 0


@pytest.mark.parametrize("line", ["{", "{}", '{"prompt": ""}', "3"])
def test_lines_that_are_no_prompts_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, line: str
) -> None:
    (tmp_path / "p.jsonl").write_text(f'"a"\n{line}')
    config = PromptConfig(files=(str(tmp_path / "p.jsonl"),), functions=0)
    with pytest.raises(ConfigError, match=r"p\.jsonl:2: "):
        gather(config, EvaluationConfig(), tokenizer)


def test_text_is_cut_into_pieces(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for number in range(3):
        (tmp_path / f"{number}.py").write_text(f"x = {number}\n" * 30)
    corpus = gather_text([str(tmp_path)], 10**6, 50, tokenizer, seed=0)
    assert max(len(corpus.output(n)) for n in range(len(corpus))) == 49
    assert set(corpus.prompts.tolist()) == {1}
    assert len(corpus.tokens) == sum(len(tokenizer.encode(f"x = {n}\n" * 30)) for n in range(3))
