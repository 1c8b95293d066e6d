"""Chat templates: Jinja programs that come with a model, run in a sandbox.

They are other people's code, hence the sandbox. What they may call is what Hugging Face lets them
call, as far as templates in use do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from specinfer.models.errors import CheckpointError


def render_chat(
    template: str, messages: Sequence[Mapping[str, str]], tokens: Mapping[str, str]
) -> str:
    """Lay out a chat as a prompt that ends where the assistant begins.

    Args:
        template: the Jinja program.
        messages: each with ``role`` and ``content``, in order.
        tokens: texts that the template may name, such as ``bos_token``.

    Raises:
        CheckpointError: the template refuses the messages, or is itself wrong.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    try:
        return environment.from_string(template).render(
            messages=list(messages), add_generation_prompt=True, **tokens
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise CheckpointError(f"the model's chat template refuses these messages: {error}") from (
            error
        )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own would write < and > as escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
