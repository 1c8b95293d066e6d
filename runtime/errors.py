"""The root of every error this package raises on purpose, and the runtime's own.

* SpecInferError
  + ConfigError           a configuration file or object that cannot be used
  + LaunchError           a task launch that breaks the rules of regions and privileges
  + MapperError           a mapper's answer that a launch cannot follow
  + TraceError            a trace that cannot be replayed although it must
  + PoisonedError         data or a value that was never made, because a task raised
  + DivergenceError       ranks that do not run the same program
  + runtime.memory        OutOfMemoryError, HoldError
  + runtime.executor.gpu_memory  GpuMemoryError
  + runtime.arena         ArenaError
  + models.errors         GraphError, CheckpointError, FetchError
  + scheduler.errors      TreeError, RequestError

A message says where, what was found and what was expected. The command line turns any of them into
one line and exit code 2.
"""

from __future__ import annotations


class SpecInferError(Exception):
    """Base class of the errors that this package raises on purpose."""


class ConfigError(SpecInferError):
    """A configuration that cannot be used; the message starts with the path of the bad value."""


class LaunchError(SpecInferError):
    """A launch that breaks the rules of regions and privileges; names the task and the argument."""


class MapperError(SpecInferError):
    """A mapper's answer that a launch cannot follow; names the launch and the answer."""


class TraceError(SpecInferError):
    """A trace that cannot be recorded or replayed; gives the reason."""


class PoisonedError(SpecInferError):
    """Data or a value that was never made: names the launch that raised, its rank, and why."""


class DivergenceError(SpecInferError):
    """Ranks that do not run the same program: names the launch and the argument that differ."""
