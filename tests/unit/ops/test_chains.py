"""Kernels that are launched before those in front of them are done wait for them."""

from __future__ import annotations

import re

import pytest

from specinfer.ops.kernels.cuda import CHAINED, FOLDER

FILES = sorted(path.name for path in FOLDER.glob("*.cu") if CHAINED in path.read_text())


@pytest.mark.parametrize("file", FILES)
def test_every_kernel_waits_once(file: str) -> None:
    source = (FOLDER / file).read_text()
    bodies = re.split(r"^.*__global__", source, flags=re.MULTILINE)[1:]
    assert bodies
    for body in bodies:
        name = re.search(r"(\w+)\((?:const|\w+\*|\w+ )", body)
        waits = re.findall(r"^    (?:begin|wait_for_previous)\(\);$", body, re.MULTILINE)
        assert len(waits) == 1, f"{file}: {name and name[1]} waits {len(waits)} times"
