"""Futures: what a task returns, before it has run.

A future can be given to later launches without waiting. Asking for its value waits; inside a trace
that is refused, since a replay runs no Python between its tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce as fold
from typing import TYPE_CHECKING, Any, Protocol

from specinfer.runtime.errors import LaunchError, PoisonedError, TraceError
from specinfer.runtime.partition import Colour, Projection

_NOTHING = object()


class Host(Protocol):
    """Who can make a value arrive: the runtime."""

    def settle(self, future: Future) -> None:
        """Return when the future has its value here, or raise why it never will."""
        ...


class Future:
    """One value that a launch will give.

    Attributes:
        launch: number of the launch.
        colour: of its point, in an index launch.
        ranks: set of ranks that will have the value.
    """

    __slots__ = ("_host", "_value", "colour", "launch", "ranks")

    def __init__(self, host: Host, launch: int, ranks: int, colour: Colour | None = None) -> None:
        self._host = host
        self.launch = launch
        self.colour = colour
        self.ranks = ranks
        self._value: Any = _NOTHING

    @property
    def key(self) -> tuple[str, int, Any]:
        """What dependences on the value are looked up by."""
        return ("future", self.launch, self.colour)

    def is_of(self, host: object) -> bool:
        """Whether a launch of this runtime gives the value."""
        return self._host is host

    @property
    def is_ready(self) -> bool:
        """Whether the value is here."""
        return self._value is not _NOTHING

    @property
    def holds_value(self) -> bool:
        """Whether a value is here, and not just the news that the task has none."""
        return self._value is not _NOTHING and self._value is not None

    def get(self) -> Any:
        """The value; waits for it, and where there is none for all that was issued.

        What a task leaves on a GPU need not be there when its value is: whoever returns a tensor
        there has to say when it may be read.

        Raises:
            PoisonedError: the task raised, or one that it depends on.
            TraceError: inside a trace.
        """
        self._host.settle(self)
        return self._value

    def __bool__(self) -> bool:
        raise LaunchError(
            f"the future of launch {self.launch} is used as a truth value, which it does not have "
            "yet; expected `.get()`, or the future as the predicate of a launch"
        )

    def put(self, value: Any) -> None:
        """Give it its value."""
        self._value = value

    def clear(self) -> None:
        """Take its value away: its launch is replayed."""
        self._value = _NOTHING

    def packed(self) -> tuple[Any, ...]:
        """The value to be sent: nothing, if it was never made."""
        return (self._value,) if self.is_ready else ()

    def value_at(self, colour: Colour | None) -> Any:
        """The value for a point of a launch that was given this future; it has run before.

        Raises:
            PoisonedError: another rank should have sent the value, and has none.
        """
        if self._value is _NOTHING:
            raise PoisonedError(f"the future of launch {self.launch} has no value")
        return self._value

    def at(self, colour: Colour | None) -> Future:
        """The future that a point of a launch depends on."""
        return self


class FutureMap:
    """One future for each point of an index launch."""

    __slots__ = ("_futures",)

    def __init__(self, futures: Mapping[Colour, Future]) -> None:
        self._futures = dict(futures)

    def __len__(self) -> int:
        return len(self._futures)

    def __iter__(self) -> Iterator[Future]:
        return iter(self._futures.values())

    def __getitem__(self, point: Colour) -> Future:
        """The future of a point.

        Raises:
            LaunchError: no such point.
        """
        try:
            return self._futures[point]
        except KeyError:
            points = list(self._futures)
            known = f"{points[0]}..{points[-1]}" if points else "(none)"
            raise LaunchError(f"future map: no point {point!r} among {known}") from None

    def __contains__(self, point: object) -> bool:
        return point in self._futures

    def get(self) -> dict[Colour, Any]:
        """All values, by point; waits for them."""
        return {point: future.get() for point, future in self._futures.items()}

    def reduce(self, op: Callable[[Any, Any], Any]) -> Any:
        """The values folded in the order of points, so that the bits are always the same.

        Args:
            op: a function of two values, such as ``operator.add``.
        """
        return fold(op, (future.get() for future in self))

    def value_at(self, colour: Colour | None) -> Any:
        """The value of a point."""
        return self.at(colour).value_at(colour)

    def at(self, colour: Colour | None) -> Future:
        """The future of a point of a launch that was given this map."""
        assert colour is not None  # refused when it was launched
        return self[colour]


class Parameter:
    """A value argument of a trace: set for each run, read when its tasks run.

    Inside the body it can only be given to launches; a body that looks at it would do so once, and
    never again when the trace is replayed. So whatever Python lets refuse is refused, hashes and
    texts too: a dictionary would find nothing, and a text would be of no value. The runtime itself
    looks it up by ``id`` and names it by ``repr``.
    """

    __slots__ = ("name", "value")

    def __init__(self, name: str) -> None:
        self.name = name
        self.value: Any = None

    def value_at(self, colour: Colour | None) -> Any:
        """Its value in this run."""
        return self.value

    def _refuse(self, *_: object) -> Any:
        raise TraceError(
            f"parameter {self.name} is read inside a trace, expected it as an argument of a launch "
            "only; what the body must know belongs in the trace's bucket"
        )

    __bool__ = __int__ = __index__ = __float__ = __complex__ = __str__ = __bytes__ = _refuse
    __format__ = __fspath__ = __hash__ = __call__ = __array__ = _refuse
    __copy__ = __deepcopy__ = __reduce_ex__ = _refuse
    __iter__ = __next__ = __reversed__ = __len__ = __contains__ = _refuse
    __getitem__ = __setitem__ = __delitem__ = __enter__ = __exit__ = _refuse
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse
    __neg__ = __pos__ = __abs__ = __invert__ = _refuse
    __round__ = __trunc__ = __floor__ = __ceil__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __pow__ = __rpow__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __divmod__ = __rdivmod__ = __matmul__ = __rmatmul__ = __and__ = __rand__ = _refuse
    __or__ = __ror__ = __xor__ = __rxor__ = _refuse
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _refuse

    if not TYPE_CHECKING:  # the checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # a question whether it follows some protocol
                raise AttributeError(name)
            self._refuse()

    def __repr__(self) -> str:
        return f"<{self.name}>"


DEFERRED = (Future, FutureMap, Parameter)
"""Values that are known only when a task runs."""

LATE = frozenset({*DEFERRED, Projection})
"""Kinds of values that stand for others: arguments of launches, but not inside of an argument."""

LOOKED_INTO = frozenset({tuple, list, dict, set, frozenset})
"""Kinds of values that may hold some of those by mistake."""

_LATE_OR_MORE = LATE | LOOKED_INTO


def late_in(value: Any) -> Any:
    """Something inside a list or the like that stands for another value; None if nothing does.

    >>> late_in([1, {"k": (Parameter("by"),)}]), late_in([1, (2, "a")])
    (<by>, None)
    """
    inside = (*value, *value.values()) if type(value) is dict else value
    if _LATE_OR_MORE.isdisjoint(map(type, inside)):  # as a rule; it costs next to nothing
        return None
    for item in inside:
        kind = type(item)
        if kind in LATE:
            return item
        if kind in LOOKED_INTO and (found := late_in(item)) is not None:
            return found
    return None
