"""What ``specinfer bench iteration`` says of a card: what blocks the host is counted."""

from __future__ import annotations

import json

import pytest
import torch

from specinfer.scheduler.bench.blocking import blocking_calls
from specinfer.scheduler.cli.main import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")


def test_calls_that_wait_for_all_are_counted_and_events_are_not() -> None:
    here, there = torch.zeros(4, pin_memory=True), torch.ones(4, device="cuda")
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    with blocking_calls() as found:
        here.copy_(there, non_blocking=True)
        event.record()
        event.synchronize()
    assert not found
    assert here.tolist() == [1.0] * 4
    with blocking_calls() as found:
        for _ in range(2):
            there[0].item()
        there.cpu()
    assert sorted(found.values()) == [1, 2]
    assert all(place.startswith(__file__) for place in found)
    with blocking_calls() as found:
        torch.cuda.current_stream().synchronize()
    assert found.total() == 1


def test_iterations_over_lanes_block_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--device", "cuda", "--requests", "1,2", "--tree", "2,1", "--steps", "16", "--json")
    assert main(["bench", "iteration", *argv]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    for requests in (1, 2):
        name = f"tiny/{requests}/tree of 4 <2,1>"
        syncs = rows[f"{name}/blocking syncs"]
        assert syncs["value"] == 0, syncs["against"]["where"]
        assert 0 < rows[f"{name}/draft"]["value"] < rows[f"{name}/iteration"]["value"]
