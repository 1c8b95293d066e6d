"""The regions of a runtime, and the memory under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specinfer.runtime.arrays import HOST, bytes_like, itemsize, over, zeros
from specinfer.runtime.attached import Attached
from specinfer.runtime.distributor import Distributor
from specinfer.runtime.errors import LaunchError, MapperError
from specinfer.runtime.machine import Machine
from specinfer.runtime.mapper import Mapper
from specinfer.runtime.memory import Memory
from specinfer.runtime.region import Region, Storage
from specinfer.runtime.temporaries import Temporary, plan_temporaries


class Store:
    """Regions by number, and the memories that hold them.

    Args:
        machine: ranks and their arrays.
        mapper: says which memory a region is in.
        distributor: is told of regions, and of arrays that take others' places.
        memories: by name, with their budgets; by default one, ``cpu``, without end.

    Attributes:
        memories: by name.
        exchanges: how often an array took another's place.
    """

    def __init__(
        self,
        machine: Machine,
        mapper: Mapper,
        distributor: Distributor,
        memories: Sequence[Memory] = (),
    ) -> None:
        self.memories = {memory.name: memory for memory in memories or (Memory("cpu"),)}
        self.exchanges = 0
        self._machine = machine
        self._mapper = mapper
        self._distributor = distributor
        self._regions: list[Region] = []
        self._num_arenas = 0
        self._attached = Attached()

    def region(self, id: int) -> Region:
        """A region by its number."""
        return self._regions[id]

    def make(
        self,
        name: str,
        shape: tuple[int, ...],
        fields: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> Region:
        """Make a region, with some arrays as the memory of its fields.

        Raises:
            LaunchError: no fields or no types, or what cannot be their memory.
            OutOfMemoryError: they take more than is left of the region's memory.
        """
        region = Region(len(self._regions), name, shape, fields)
        sizes = [_itemsize(region, field, dtype) for field, dtype in region.fields.items()]
        num_bytes = region.space.volume * sum(sizes)
        taken = {field: region.check(field, array) for field, array in arrays.items()}
        self._attached.check(region, taken)
        memory = self.memory_of(region)
        memory.hold(name, num_bytes)
        self._add(region)
        for field, array in taken.items():
            self._attach(region, field, array)
        if memory.device != HOST:  # where memory is not given out before it is touched
            for field in region.fields.keys() - taken.keys():
                array = zeros(region.shape, region.fields[field], memory.device)
                self._give(region, field, array)
        return region

    def temporaries(self, name: str, values: Sequence[Temporary]) -> dict[str, Region]:
        """Regions of one field ``value`` in an arena; see ``Runtime.temporaries``."""
        plan = plan_temporaries(values)
        if not values:
            return {}
        regions = {
            value.name: Region(id, value.name, value.shape, {"value": value.dtype})
            for id, value in enumerate(values, start=len(self._regions))
        }
        memories = {memory.name: memory for memory in map(self.memory_of, regions.values())}
        if len(memories) > 1:
            raise MapperError(
                f"arena {name}: a mapper put its values into memories {', '.join(memories)}, "
                "expected one"
            )
        _, held = memories.popitem()
        held.hold(name, plan.num_bytes)
        arena = self._num_arenas
        self._num_arenas += 1
        memory = zeros((plan.num_bytes,), bytes_like(values[0].dtype), held.device)
        for value in values:
            region, offset = regions[value.name], plan.offsets[value.name]
            self._add(region)
            region.storage = Storage(arena, offset, itemsize(value.dtype))
            self._give(region, "value", over(memory, offset, value.shape, value.dtype))
        return regions

    def attach(self, region: Region, field: str, array: Any) -> None:
        """Make an array the memory of a field, on every rank of this process.

        Raises:
            LaunchError: no such field, or what cannot be its memory.
        """
        array = region.check(field, array)
        self._attached.check(region, {field: array})
        self._attach(region, field, array)
        self._exchanged(region, field)

    def detach(self, region: Region, field: str) -> None:
        """Take the memory of a field away, on every rank of this process."""
        for rank in self._machine.ranks:
            self._machine.instances(rank).detach((region.id, field))
        self._attached.forget((region.id, field))
        self._exchanged(region, field)

    def check_known(self, region: Region, where: object) -> None:
        """Refuse a region of another runtime: numbers of regions mean something in their own only.

        Raises:
            LaunchError: it is not of this one.
        """
        if region not in self._regions[region.id : region.id + 1]:
            raise LaunchError(
                f"{where} is of another runtime, expected a region that this one made"
            )

    def _add(self, region: Region) -> None:
        self._regions.append(region)
        self._distributor.add(region)

    def memory_of(self, region: Region) -> Memory:
        """The memory that the mapper puts a region into.

        Raises:
            MapperError: there is none of that name.
        """
        name = self._mapper.memory(region)
        try:
            return self.memories[name]
        except KeyError:
            raise MapperError(
                f"region {region.name}: a mapper put it into memory {name!r}, expected "
                f"{' or '.join(self.memories)}"
            ) from None

    def _attach(self, region: Region, field: str, array: Any) -> None:
        self._give(region, field, array)
        self._attached.add(region, field, array)

    def _give(self, region: Region, field: str, array: Any) -> None:
        for rank in self._machine.ranks:
            self._machine.instances(rank).attach((region.id, field), array)

    def _exchanged(self, region: Region, field: str) -> None:
        self._distributor.forget((region.id, field), region)
        self.exchanges += 1


def _itemsize(region: Region, field: str, dtype: Any) -> int:
    try:
        return itemsize(dtype)
    except TypeError as error:
        raise LaunchError(
            f"region {region.name}: field {field} is of type {dtype!r}, expected one that NumPy or "
            f"torch knows: {error}"
        ) from None
