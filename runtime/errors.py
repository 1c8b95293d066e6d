"""The root of every error this package raises on purpose, and the runtime's own.

* SpecInferError
  + ConfigError           a configuration file or object that cannot be used
  + LaunchError           a task launch that breaks the rules of regions and privileges
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
