"""Memory of the program that fields have, and that no two of them may have at once.

Dependences are found by region and field. If two fields had the same bytes, launches that meet in
them would not wait for each other, so that is refused where an array is attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specinfer.runtime.arrays import layout, share_elements
from specinfer.runtime.errors import LaunchError
from specinfer.runtime.region import FieldKey, Region


class Attached:
    """The arrays that are attached, and where they lie. Those that do not say are not compared."""

    def __init__(self) -> None:
        self._known: dict[FieldKey, tuple[int, int, str, Any]] = {}

    def check(self, region: Region, arrays: Mapping[str, Any]) -> None:
        """Refuse arrays, by field, that overlap with those of other fields.

        Arrays may lie among each other, such as columns of one matrix.

        Raises:
            LaunchError: they overlap.
        """
        new = {(region.id, field): _place(region, field, array) for field, array in arrays.items()}
        others = {key: known for key, known in self._known.items() if key not in new}
        for key, place in new.items():
            if place is None:
                continue
            start, stop, name, array = place
            for low, high, other_name, other in others.values():
                if start < high and low < stop and share_elements(array, other):
                    raise LaunchError(
                        f"region {name}: attached an array that overlaps with that of "
                        f"{other_name}, expected memory of its own: launches that use one field "
                        "do not wait for those that use another"
                    )
            others[key] = place

    def add(self, region: Region, field: str, array: Any) -> None:
        """Take in an array that has become the memory of a field."""
        place = _place(region, field, array)
        if place is None:
            self.forget((region.id, field))
        else:
            self._known[region.id, field] = place

    def forget(self, key: FieldKey) -> None:
        """A field has no array of the program any more."""
        self._known.pop(key, None)


def _place(region: Region, field: str, array: Any) -> tuple[int, int, str, Any] | None:
    found = layout(array)
    return None if found is None else (found.start, found.stop, f"{region.name}.{field}", array)
