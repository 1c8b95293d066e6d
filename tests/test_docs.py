"""What the documents show is true: their code runs and prints what stands behind it.

A marker, alone on its line, says what a fenced block is for. The blocks of a document share an
empty folder, and run in order:

``<!-- file: NAME -->``  the block is a file there
``<!-- run -->``         Python is executed in a fresh namespace, ``specinfer`` commands in process;
                         a ``text`` block right behind is what they print
``<!-- same: PATH -->``  the block is that file of the repository
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from specinfer.ops.operator import Operator
from specinfer.ops.registry import OPERATORS
from specinfer.scheduler.cli.main import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(
    r"^<!-- (?P<marker>file|run|same)(: (?P<name>\S+))? -->\n"
    r"```(?P<language>\w+)\n(?P<code>.*?)^```\n"
    r"(\n```text\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]+)")


@dataclass(frozen=True)
class Block:
    """A marked block, and what it is said to print."""

    marker: str
    name: str
    language: str
    code: str
    printed: str
    line: int


def blocks(text: str) -> list[Block]:
    return [
        Block(
            found["marker"],
            found["name"] or "",
            found["language"],
            found["code"],
            found["printed"] or "",
            text.count("\n", 0, found.start()) + 1,
        )
        for found in BLOCK.finditer(text)
    ]


def run(block: Block, path: Path) -> None:
    if block.language == "python":
        # As many empty lines before it as make a traceback point into the document.
        source = "\n" * (block.line + 1) + block.code
        exec(compile(source, path, "exec", dont_inherit=True), {"__name__": "__main__"})
    else:
        for command in block.code.splitlines():
            program, *arguments = shlex.split(command, comments=True)
            assert (program, main(arguments)) == ("specinfer", 0)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_marked_blocks_are_true(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECINFER_HOME", str(tmp_path / "home"))  # nothing is there to find
    for block in blocks(path.read_text(encoding="utf-8")):
        where = f"{path.name}:{block.line}"
        match block.marker:
            case "file":
                Path(block.name).write_text(block.code, encoding="utf-8")
            case "same":
                assert block.code == (ROOT / block.name).read_text(encoding="utf-8"), where
            case "run":
                run(block, path)
                printed = "".join(
                    f"{line.rstrip()}\n" for line in capsys.readouterr().out.split("\n")
                )
                assert printed.strip("\n") == block.printed.strip("\n"), where


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_marker_is_understood(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    markers = re.findall(r"^<!-- (?:file|run|same)\b", text, re.MULTILINE)
    assert len(markers) == len(blocks(text))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for found in LINK.finditer(path.read_text(encoding="utf-8")):
        assert (path.parent / found["path"]).exists(), found["path"]


def row(operator: Operator) -> list[str]:
    """What the table of operators says of one, less its last column."""
    defaults = operator.defaults()
    return [
        operator.name,
        ", ".join(operator.inputs),
        ", ".join([*operator.weights, *(f"[{name}]" for name in operator.optional_weights)]),
        ", ".join(
            f"[{name}: {defaults[name]}]" if name in defaults else name
            for name in operator.attributes
        ),
    ]


def test_the_table_of_operators_is_the_registry() -> None:
    lines = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip().strip("`") for cell in line.split("|")[1:5]] for line in lines]
    table = [[cell if cell != "-" else "" for cell in row] for row in cells if row]
    assert [row for row in table if row[0] in OPERATORS] == list(map(row, OPERATORS.values()))
