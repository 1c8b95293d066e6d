"""Every CUDA C++ kernel compiles, for the oldest and the newest cards that are supported."""

from __future__ import annotations

from pathlib import Path

import pytest

from specinfer.ops.kernels.cuda import FOLDER, OPTIONS, architecture, instances

FILES = sorted(path.name for path in FOLDER.glob("*.cu"))


# For the oldest card without optimisation, which is most of the time.
@pytest.mark.parametrize(("arch", "level"), [("sm_80", "-O0"), ("sm_90", "-O3")])
@pytest.mark.parametrize("file", FILES)
def test_it_compiles(file: str, arch: str, level: str) -> None:
    core = pytest.importorskip("cuda.core", reason="needs the extra `test`: a compiler")
    nvidia = pytest.importorskip("nvidia", reason="needs the extra `test`: CUDA's headers")
    headers = [str(path) for root in nvidia.__path__ for path in Path(root).glob("cu*/include")]
    source = (FOLDER / file).read_text()
    only = architecture(source)
    if only and not only.startswith(arch):
        pytest.skip(f"{file} is for {only} only")
    names = instances(source)
    assert names, f"{file}: no line that begins with `// instances:`"
    options = core.ProgramOptions(
        arch=only or arch,
        ptxas_options=level,
        std=OPTIONS[0].removeprefix("--std="),
        include_path=[*headers, str(FOLDER)],
    )
    compiled = core.Program(source, "c++", options).compile("cubin", name_expressions=names)
    assert set(compiled.symbol_mapping) == set(names)
