"""What the validator has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found in a log.

    Attributes:
        kind: ``race``, ``order``, ``data``, ``work``, ``ranks``, ``leak``, ``redundant`` or
            ``pending``.
        text: a sentence that names launches and points.
        severity: an error is a bug of the runtime, a warning costs time, a note is neither.
    """

    kind: str
    text: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {self.text}"
