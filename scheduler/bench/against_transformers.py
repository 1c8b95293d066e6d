"""The same weights written with by Hugging Face transformers, timed as ours are.

The one file that knows that library, which is imported only here and only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.bench.generate import Prompt, Writer, Written
from specinfer.scheduler.bench.timing import waiter

_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
)
_KINDS = {"llama": "Llama", "qwen2": "Qwen2"}
LOOKUP = 10
"""Tokens that prompt lookup guesses at once."""


def check_transformers() -> None:
    """Refuse to compare with what is not there, before anything is measured.

    Raises:
        ConfigError: the library is not installed.
    """
    if find_spec("transformers") is None:
        raise ConfigError(
            '--against transformers: it is not installed; expected `pip install "specinfer[bench]"`'
        )


def network_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """Transformers' model around weights that lie in memory already; none is copied.

    Args:
        config: as of a checkpoint.
        tensors: by the checkpoint's names.

    Raises:
        ConfigError: a kind of model that this does not know, or weights that it has not.
    """
    import transformers

    transformers.logging.set_verbosity_error()  # its advice is not for who measures
    kind = _KINDS.get(str(config["model_type"]))
    if kind is None:
        raise ConfigError(
            f"--against transformers: model_type is {config['model_type']!r}, expected "
            f"{' or '.join(_KINDS)}"
        )
    some = next(iter(tensors.values()))
    settings = getattr(transformers, f"{kind}Config")(
        **{key: config[key] for key in _KEYS},
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        dtype=some.dtype,
    )
    if (size := config.get("head_dim")) is not None:
        settings.head_dim = size
    with torch.device("meta"):
        network = getattr(transformers, f"{kind}ForCausalLM")(settings)
    network.load_state_dict(dict(tensors), strict=False, assign=True)
    network.tie_weights()
    network.model.rotary_emb = type(network.model.rotary_emb)(settings).to(some.device)
    members = [*network.named_parameters(), *network.named_buffers()]
    if wrong := [name for name, tensor in members if tensor.device.type == "meta"]:
        raise ConfigError(f"--against transformers: no weights for {wrong[0]}")
    return network.eval()


class TransformersWriter:
    """Writes by ``generate`` of a network.

    Args:
        network: as :func:`network_of` makes it.
        max_new_tokens: of a text.
        eos_ids: tokens that end it.
        width: tokens that prompts are filled up to; 0: the longest of those that are written at
            once. A cache of fixed size is compiled once for all only if they are alike.
        how: further options of ``generate``.
    """

    def __init__(
        self,
        network: Any,
        max_new_tokens: int,
        eos_ids: Collection[int],
        width: int = 0,
        **how: Any,
    ) -> None:
        self._network = network
        self._max_new_tokens = max_new_tokens
        self._eos_ids = sorted(eos_ids)
        self._width = width
        self._how = how

    def write(self, prompts: Sequence[Prompt]) -> Written:
        """Write the texts behind these prompts, all at once."""
        import transformers

        device = self._network.device
        wait = waiter(device.type)
        width = max(self._width, *map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        first = _FirstTokens(wait)
        settings = transformers.GenerationConfig(
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            eos_token_id=self._eos_ids or None,
            pad_token_id=(self._eos_ids or [0])[0],
        )
        found = self._network.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
            stopping_criteria=transformers.StoppingCriteriaList([first]),
            **self._how,
        )
        wait()
        end = perf_counter()
        texts = [self._ended(row) for row in found[:, width:].tolist()]
        early = first.length - width
        tokens = sum(max(0, len(text) - early) for text in texts)
        return Written(texts, tokens, end - first.time)

    def _ended(self, tokens: list[int]) -> list[int]:
        """Up to the end of the text; what is behind it only fills the row."""
        for at, token in enumerate(tokens):
            if token in self._eos_ids:
                return tokens[: at + 1]
        return tokens


class _FirstTokens:
    """Looks at the clock when the first tokens are there.

    Attributes:
        time: when that was.
        length: of the rows then, prompts included.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self.time = 0.0
        self.length = 0

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Stop nobody."""
        if not self.length:
            self._wait()
            self.time, self.length = perf_counter(), input_ids.shape[1]
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def writers_of(
    llm: Callable[[], Any],
    ssm: Callable[[], Any] | None,
    prompts: Sequence[Prompt],
    requests: int,
    max_new_tokens: int,
    eos_ids: Collection[int],
) -> dict[str, Callable[[], Writer]]:
    """What makes a writer for each way that ``generate`` has.

    Args:
        llm: gives the network.
        ssm: gives that of the assistant, if there is one.
        prompts: that will be written.
        requests: texts at once; its own speculation is for one only.
        max_new_tokens: of a text.
        eos_ids: tokens that end it.
    """

    def make(**how: Any) -> Callable[[], Writer]:
        return lambda: TransformersWriter(llm(), max_new_tokens, eos_ids, **how)

    longest = max(map(len, prompts))
    writers = {
        "transformers": make(),
        "transformers, static cache": make(width=longest, cache_implementation="static"),
    }
    if requests == 1:
        writers["transformers, prompt lookup"] = make(prompt_lookup_num_tokens=LOOKUP)
        if ssm is not None:
            assistant = ssm
            writers["transformers, assisted"] = lambda: TransformersWriter(
                llm(), max_new_tokens, eos_ids, assistant_model=assistant()
            )
    return writers
