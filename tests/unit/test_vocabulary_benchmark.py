"""Which cases ``benchmarks.gpu_vocabulary`` times; timing them needs a card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    # The folder of the repository is not importable where only the package is installed.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def test_cases_are_called_as_they_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu_vocabulary as benchmark

    timed: list[object] = []
    monkeypatch.setattr(benchmark, "time_sampled_walk", lambda *case: timed.append(case))
    benchmark.measure(torch.bfloat16, 3, "mss_walk/64x64")
    assert timed == [
        (f"mss_walk/64x64/128256/{name}", 64, 64, 128256, name, torch.bfloat16, 3)
        for name in ("usual", "top_p", "top_k", "all")
    ]
    names = [name for name, _ in benchmark.cases()]
    assert len(set(names)) == len(names)


def test_what_torch_draws_is_likely() -> None:
    from benchmarks import gpu_vocabulary as benchmark

    logits, tokens = torch.zeros(200, 6), torch.empty(200, dtype=torch.int64)
    logits[:, 2], logits[:, 4] = 4.0, 4.0
    benchmark.sampled_by_torch(logits, 0.8, tokens)
    assert set(tokens.tolist()) == {2, 4}


@pytest.mark.parametrize(
    ("argv", "said"), [(("--only", "nosuch"), "no case"), (("--only", "mss", "--write"), "all")]
)
def test_bad_input(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], said: str) -> None:
    from benchmarks import gpu_vocabulary as benchmark

    with pytest.raises(SystemExit):
        benchmark.main(argv)
    assert said in capsys.readouterr().err
