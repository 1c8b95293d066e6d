"""Trains one network on a corpus: AdamW, a warm-up and a cosine, checkpoints that resume exactly.

On one CPU thread a run that was stopped and resumed goes through the same numbers as one that was
not, if its length is given in epochs. A budget of seconds bends the schedule to what fits into it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from specinfer.scheduler.boost.config import TrainingConfig
from specinfer.scheduler.boost.network import Network, masked
from specinfer.scheduler.boost.packing import Batch, Packer
from specinfer.scheduler.boost.watch import Budget, Watch

SAVE_SECONDS = 120.0
"""Between checkpoints of a run."""


@dataclass(slots=True)
class _State:
    """Where a run stands.

    Attributes:
        step: batches so far.
        epoch: which pass over the texts.
        place: texts of this epoch that were used.
        seconds: spent so far.
        tokens: of the texts that were used.
        curve: step, tokens, seconds and loss, every few steps.
    """

    step: int = 0
    epoch: int = 0
    place: int = 0
    seconds: float = 0.0
    tokens: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """One run.

    Args:
        network: float32; trained in place.
        packer: of the corpus.
        texts: which texts of the corpus are learned from, at least one.
        config: how.
        device: ``cpu`` or ``cuda``; on the latter products are computed in bfloat16.
        known: tokens of the vocabulary: logits behind them are left out.
        state: the file that the run is kept in, and resumed from if it is there.
    """

    def __init__(
        self,
        network: Network,
        packer: Packer,
        texts: Sequence[int] | NDArray[np.int64],
        config: TrainingConfig,
        *,
        device: str,
        known: int,
        state: Path,
    ) -> None:
        self._network = network.to(device).requires_grad_(requires_grad=True)
        self._packer, self._config = packer, config
        self._texts = np.asarray(texts, np.int64)
        self._device, self._known, self._path = device, known, state
        self._rows = max(1, config.batch_tokens // packer.length)
        matrices = [w for w in network.parameters() if w.dim() > 1]
        vectors = [w for w in network.parameters() if w.dim() == 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            fused=device == "cuda",
        )
        self._state = _State()
        self._order = self._shuffled(0)
        if state.is_file():
            self._resume()

    @property
    def curve(self) -> list[dict[str, float]]:
        """Loss by step."""
        return self._state.curve

    @property
    def seconds(self) -> float:
        """Time that the run has taken, over all its parts."""
        return self._state.seconds

    @property
    def progress(self) -> float:
        """How much is done, from 0 to 1: by texts, or by time where that is further."""
        config, state = self._config, self._state
        by_texts = (state.epoch + state.place / len(self._texts)) / config.epochs
        by_time = state.seconds / config.seconds if config.seconds else 0.0
        return min(1.0, max(by_texts, by_time))

    def run(self, budget: Budget, watch: Watch, name: str) -> bool:
        """Train until it is done, or until the budget is spent.

        Returns:
            Whether it is done. The state is kept in the file either way.
        """
        state, saved = self._state, perf_counter()
        losses: list[Tensor] = []
        with torch.enable_grad():
            while self.progress < 1 and not budget.is_spent:
                start = perf_counter()
                losses.append(self._step())
                if state.step % self._config.log_every == 0:
                    loss = float(torch.stack(losses).mean())  # waits for the GPU
                    losses = []
                    state.seconds += perf_counter() - start
                    self._log(loss)
                    watch(name, self.progress, 1.0, self._note(loss))
                else:
                    state.seconds += perf_counter() - start
                if perf_counter() - saved > SAVE_SECONDS:
                    self._save()
                    saved = perf_counter()
        if losses:
            self._log(float(torch.stack(losses).mean()))
        self._save()
        return self.progress >= 1

    def _note(self, loss: float) -> str:
        state = self._state
        speed = state.tokens / max(state.seconds, 1e-9)
        return f"step {state.step}, loss {loss:.3f}, {speed:,.0f} tokens/s"

    def _log(self, loss: float) -> None:
        state = self._state
        state.curve.append(
            {"step": state.step, "tokens": state.tokens, "seconds": state.seconds, "loss": loss}
        )

    def _step(self) -> Tensor:
        state = self._state
        batch, taken = self._packer.pack(self._order[state.place :], self._rows)
        rate = self._config.learning_rate * self._factor()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        cast = torch.autocast("cuda", torch.bfloat16, enabled=self._device == "cuda")
        with cast:
            loss = loss_of(
                self._network, batch.to(self._device), self._known, self._config.soft_targets
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._config.clip)
        self._optimizer.step()
        state.step += 1
        state.tokens += int((batch.texts >= 0).sum())
        state.place += taken
        if state.place >= len(self._order):
            state.epoch, state.place = state.epoch + 1, 0
            self._order = self._shuffled(state.epoch)
        return loss.detach()

    def _factor(self) -> float:
        """Of the learning rate: a linear warm-up, then a cosine to a twentieth."""
        warm = min(1.0, (self._state.step + 1) / self._config.warmup_steps)
        return warm * (0.05 + 0.95 * (1 + math.cos(math.pi * self.progress)) / 2)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self._config.seed, epoch)).permutation(self._texts)

    def _save(self) -> None:
        state = self._state
        half = self._path.with_suffix(".half")
        kept = {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "state": {name: getattr(state, name) for name in _State.__slots__},
        }
        torch.save(kept, half)
        half.replace(self._path)

    def _resume(self) -> None:
        kept = torch.load(self._path, map_location=self._device, weights_only=True)
        self._network.load_state_dict(kept["network"])
        self._optimizer.load_state_dict(kept["optimizer"])
        self._state = _State(**kept["state"])
        self._order = self._shuffled(self._state.epoch)


def loss_of(network: Network, batch: Batch, known: int, soft: float) -> Tensor:
    """Mean cross entropy of the tokens behind prompts.

    Args:
        network: predicts.
        batch: what.
        known: tokens of the vocabulary.
        soft: share of the LLM's likeliest tokens in the target, where they are known; the rest is
            on the token that it wrote.
    """
    hidden = network(batch.tokens, batch.positions, masked(batch.mask()))
    logits = _logits(network, hidden.flatten(0, 1)[batch.at], known)
    total = logits.logsumexp(-1)
    is_known = batch.targets < known
    written = logits.gather(-1, batch.targets.clamp(max=known - 1)[:, None])[:, 0]
    hard = (total - written) * is_known
    if not soft or not batch.top_ids.shape[-1]:
        return hard.sum() / is_known.sum().clamp(min=1)
    likely = logits.gather(-1, batch.top_ids.clamp(max=known - 1))
    has_any = batch.top_probs.sum(-1) > 0
    expected = (total - (likely * batch.top_probs).sum(-1)) * has_any
    counted = (1 - soft) * is_known + soft * has_any
    return ((1 - soft) * hard + soft * expected).sum() / counted.sum().clamp(min=1)


def _logits(network: Network, hidden: Tensor, known: int) -> Tensor:
    """(places, vocabulary) float32, without the tokens that are not known."""
    # All columns are computed: a GPU's products are slow where their number is odd.
    logits = functional.linear(hidden, network.table).float()
    return logits.masked_fill(torch.arange(logits.shape[1], device=logits.device) >= known, -1e9)


@torch.no_grad()
def ranks_of(
    network: Network, packer: Packer, texts: Sequence[int], known: int, device: str, rows: int
) -> NDArray[np.int32]:
    """How many tokens the network holds likelier than each output token of these texts.

    Args:
        network: reads along.
        packer: of the corpus; its rows must hold each text whole.
        texts: which.
        known: tokens of the vocabulary; one that is not known has this rank.
        device: of the network.
        rows: of a batch.

    Returns:
        (all output tokens of the corpus,); -1 for those of other texts.
    """
    ranks = np.full(packer.corpus.num_outputs, -1, np.int32)
    cast = torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda")
    for batch in packer.batches(texts, rows):
        moved = batch.to(device)
        with cast:
            hidden = network(moved.tokens, moved.positions, masked(moved.mask()))
        # Not in bfloat16: there two of many logits are often equal, and which is first matters.
        logits = _logits(network, hidden.flatten(0, 1)[moved.at].float(), known)
        right = logits.gather(-1, moved.targets.clamp(max=known - 1)[:, None])
        rank = (logits > right).sum(-1).where(moved.targets < known, known)
        ranks[batch.outputs.numpy()] = rank.cpu().numpy()
    return ranks


def save_curve(curves: Mapping[str, Sequence[Mapping[str, float]]], folder: Path) -> None:
    """Write loss curves as ``loss.json``, and draw ``loss.png`` where matplotlib is installed."""
    (folder / "loss.json").write_text(json.dumps(curves, indent=1) + "\n")
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), dpi=120)
    for name, curve in curves.items():
        axes.plot([at["tokens"] / 1e6 for at in curve], [at["loss"] for at in curve], label=name)
    axes.set_xlabel("million tokens seen")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "loss.png")
    pyplot.close(figure)
