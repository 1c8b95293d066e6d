from __future__ import annotations

import pytest

from specinfer.models.catalogue import Wheel, load_catalogue, parse_catalogue
from specinfer.runtime.errors import ConfigError

ONE = """
default: mars
models:
  mars:
    title: Mars
    licence: MIT
    upstream: red/mars
    architecture: llama
    wheel: mars-part{n}==1.0
    member: mars_part{n}/data/part{n:02}.bin
    parts: 2
    bytes: 10
    sha256: ab
"""


def test_parts_are_numbered_from_one() -> None:
    entry = parse_catalogue(ONE).entries["mars"]
    assert entry.wheels == (
        Wheel("mars-part1==1.0", "mars_part1/data/part01.bin"),
        Wheel("mars-part2==1.0", "mars_part2/data/part02.bin"),
    )


def test_description_names_source_and_licence() -> None:
    text = parse_catalogue(ONE).entries["mars"].describe()
    for part in ("Mars by red", "licence MIT", "mars-part1==1.0 .. mars-part2==1.0", "red/mars"):
        assert part in text


def test_packaged_catalogue_is_pinned_and_checked() -> None:
    catalogue = load_catalogue()
    assert catalogue.default == "smollm2-135m"
    parts = {name: len(entry.wheels) for name, entry in catalogue.entries.items()}
    assert parts == {"smollm2-135m": 1, "qwen2.5-coder-1.5b": 22, "qwen2.5-coder-0.5b": 6}
    for entry in catalogue.entries.values():
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert all(wheel.requirement.count("==") == 1 for wheel in entry.wheels)
        assert len({wheel.member for wheel in entry.wheels}) == len(entry.wheels)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("default: mars", "default: venus", r"catalogue\.default: expected mars, found 'venus'"),
        ("parts: 2", "parts: two", r"catalogue\.models\.mars\.parts: expected int, found 'two'"),
        ("licence: MIT", "license: MIT", r"catalogue\.models\.mars: .*licence, license"),
        ("default: mars", "", r"expected the keys default and models"),
        ("models:", "models: [", r"expected the keys default and models"),
    ],
)
def test_refuses_wrong_keys_by_path(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_catalogue(ONE.replace(old, new))
