"""Help fits 80 columns, and what is unknown leads to the help of its command."""

from __future__ import annotations

import pytest

from specinfer.scheduler.cli.main import BAD_INPUT, main

COMMANDS = ("generate", "fetch", "inspect", "boost", "profile", "validate")


@pytest.mark.parametrize("command", [(), *((command,) for command in COMMANDS)], ids=str)
def test_help_fits_a_terminal(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert not command or command == ("fetch",) or "examples:" in lines  # stand as they are


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["generate", "--drafft=ngram", "hi"],
            "unknown option --drafft, did you mean --draft? (see `specinfer generate --help`)",
        ),
        (["generate", "-z", "hi"], "unknown option -z (see `specinfer generate --help`)"),
        (["fetch", "a", "b"], "unexpected 'b' (see `specinfer fetch --help`)"),
        (["inspect", "--unlike"], "unknown option --unlike (see `specinfer inspect --help`)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_unknown_arguments_lead_to_the_help_of_their_command(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == BAD_INPUT
    assert capsys.readouterr().err == f"specinfer: error: {message}\n"
