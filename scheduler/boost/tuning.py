"""Boost-tuning from beginning to end, phase by phase, each of which can be stopped and resumed.

Prompts, the LLM's continuations, the draft vocabulary, a network trained on text, then one SSM
after the other, and what each set's texts would cost with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from specinfer.models.checkpoint import Checkpoint, open_checkpoint
from specinfer.models.draft_vocabulary import DraftVocabulary, load_draft_vocabulary, most_common
from specinfer.models.fetch import fetch, locate
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.boost.boosting import Boosting, is_reproduced, tokens_of_steps
from specinfer.scheduler.boost.config import BoostConfig, TrainingConfig
from specinfer.scheduler.boost.corpus import Corpus, load_corpus
from specinfer.scheduler.boost.gathering import TRAIN, gather, gather_text
from specinfer.scheduler.boost.network import Network
from specinfer.scheduler.boost.packing import Packer
from specinfer.scheduler.boost.ssm_folder import (
    new_network,
    project_embeddings,
    save_ssm,
    ssm_config,
)
from specinfer.scheduler.boost.training import Trainer, ranks_of, save_curve
from specinfer.scheduler.boost.watch import Budget, Watch, unwatched
from specinfer.scheduler.boost.writing import (
    engine_writer,
    read_written,
    torch_writer,
    write_corpus,
)

CHAIN = (1,) * 8
MEASURED_TEXTS = 1000
"""Most texts of a set whose steps are counted."""
PROMPTS, WRITING, BASE = "prompts", "writing", "base"


class Tuning:
    """One boost-tuning, in one folder.

    Args:
        config: what is to be done.
        home: of the model cache.
        device: ``cpu`` or ``cuda``.
        watch: told how it goes.
        dtype: of the SSMs' files.
    """

    def __init__(
        self,
        config: BoostConfig,
        home: Path,
        *,
        device: str = "cpu",
        watch: Watch = unwatched,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.out = Path(config.out)
        self._config, self._home, self._device = config, home, device
        self._watch, self._dtype = watch, dtype
        if device == "cuda":
            # What was bfloat16 loses nothing as TF32, which is much faster than float32.
            torch.set_float32_matmul_precision("high")
            # It plans anew for every shape, and prompts have many.
            torch.backends.cuda.enable_cudnn_sdp(enabled=False)

    @property
    def phases(self) -> list[str]:
        """Names of the phases, in order."""
        ssms = [f"ssm-{number}" for number in range(1, self._config.boosting.ssms + 1)]
        return [PROMPTS, WRITING, BASE, *ssms]

    def run(self, budget: Budget, until: str = "") -> bool:
        """Do what is not done yet.

        Args:
            budget: for all of it; a phase that it cuts short goes on with the next call.
            until: the last phase that is done; by default all are.

        Returns:
            Whether all phases, or those asked for, are done.

        Raises:
            SpecInferError: a model, source or file that cannot be used.
        """
        if until and until not in self.phases:
            raise ConfigError(f"--until {until}: expected one of {', '.join(self.phases)}")
        self.out.mkdir(parents=True, exist_ok=True)
        for phase in self.phases:
            if phase == PROMPTS:
                is_done = self._gather()
            elif phase == WRITING:
                is_done = self._write(budget)
            elif phase == BASE:
                is_done = self._train_base(budget)
            elif phase in self._superfluous:
                continue
            else:
                is_done = self._train_ssm(phase, budget)
            if not is_done or phase == until:
                return is_done
        return True

    # Prompts and continuations

    def _gather(self) -> bool:
        folder = self.out / PROMPTS
        if not (folder / f"{TRAIN}.safetensors").is_file():
            folder.mkdir(exist_ok=True)
            self._watch(PROMPTS, 0, 1, "looking for prompts")
            tokenizer = self._llm.tokenizer()
            sets = gather(self._config.prompts, self._config.evaluation, tokenizer)
            for name, corpus in sets.items():
                corpus.save(folder / f"{name}.safetensors")
            self._watch(PROMPTS, 1, 1, ", ".join(f"{n}: {len(c):,}" for n, c in sets.items()))
        return True

    def _write(self, budget: Budget) -> bool:
        """The sets that are measured come first: they must be whole."""
        config = self._config.writing
        own = self.out / f"{WRITING}.done"
        if own.is_file():
            return True
        # What earlier, interrupted runs took of the phase's own time is not known: it starts anew.
        limit = budget.within(config.seconds)
        for name in self._sets:
            prompts = load_corpus(self.out / PROMPTS / f"{name}.safetensors")
            folder = self.out / "written" / name
            allowed = limit if name == TRAIN else budget
            whole = write_corpus(
                prompts, folder, config, lambda: self._writer, allowed, self._watch
            )
            has_any = any(folder.glob("*.safetensors"))
            if not whole and (name != TRAIN or budget.is_spent or not has_any):
                return False
        own.write_text("")
        self.__dict__.pop("_writer", None)  # its memory is for training
        return True

    @cached_property
    def _writer(self) -> Any:
        if self._config.writing.writer == "engine":
            return engine_writer(self._llm, self._config.writing)
        self._watch("reading the LLM", 0, 1, str(self._llm.path))
        return torch_writer(self._llm, self._config.writing, self._device)

    @property
    def _sets(self) -> list[str]:
        """Names of the sets of prompts; ``train`` is the last."""
        names = [path.stem for path in sorted((self.out / PROMPTS).glob("*.safetensors"))]
        return sorted(names, key=lambda name: (name == TRAIN, name))

    @cached_property
    def _written(self) -> dict[str, Corpus]:
        return {name: read_written(self.out / "written" / name) for name in self._sets}

    @cached_property
    def _text(self) -> Corpus:
        path, config = self.out / "text.safetensors", self._config
        if not path.is_file():
            self._watch("text", 0, 1, "reading sources")
            gather_text(
                config.prompts.sources,
                config.text_tokens,
                config.base.row_tokens,
                self._llm.tokenizer(),
                config.prompts.seed,
            ).save(path)
        corpus = load_corpus(path)
        self._watch("text", 1, 1, f"{len(corpus.tokens):,} tokens")
        return corpus

    # Vocabulary and networks

    @cached_property
    def _vocabulary(self) -> DraftVocabulary:
        found = load_draft_vocabulary(self.out, self._config.network.vocabulary)
        if found is None:
            tokenizer = self._llm.tokenizer()
            size = int(self._llm.config["vocab_size"])
            train = self._written[TRAIN]
            counts = np.bincount(train.tokens, minlength=size).astype(float)
            counts /= counts.sum()
            if self._config.text_tokens:
                # Texts of the LLM are what is to be guessed; others tell of rare words.
                text = np.bincount(self._text.tokens, minlength=size)
                counts += 0.1 * text / text.sum()
            ids = most_common(counts, self._config.network.vocabulary - 1, tokenizer.eos_ids)
            if len(ids) < self._config.network.vocabulary - 1:
                raise ConfigError(
                    f"network.vocabulary is {self._config.network.vocabulary}, expected at most "
                    f"{len(ids) + 1}: the LLM has no more tokens"
                )
            found = DraftVocabulary(ids, tokenizer.vocabulary_digest)
            found.save(self.out)
        return found

    def _new_network(self) -> Network:
        config = self._config
        length = max(config.base.row_tokens, config.training.row_tokens)
        shape = ssm_config(config.network, self._llm, self._vocabulary.num_rows, length)
        network = new_network(shape, config.training.seed)
        if name := config.network.embeddings:
            project_embeddings(network, self._open(name), self._vocabulary)
        return network

    def _train_base(self, budget: Budget) -> bool:
        path = self.out / f"{BASE}.safetensors"
        if path.is_file():
            return True
        network = self._new_network()
        if self._config.text_tokens:
            config = self._config.base
            packer = Packer(self._text, self._vocabulary, config.row_tokens)
            trainer = self._trainer(network, packer, range(len(self._text)), config, BASE)
            if not trainer.run(budget, self._watch, BASE):
                return False
            self._keep_curve(BASE, trainer)
        _save_weights(network, path)
        (self.out / f"{BASE}.state").unlink(missing_ok=True)
        return True

    def _trainer(
        self,
        network: Network,
        packer: Packer,
        texts: Sequence[int],
        config: TrainingConfig,
        name: str,
    ) -> Trainer:
        return Trainer(
            network,
            packer,
            texts,
            config,
            device=self._device,
            known=len(self._vocabulary),
            state=self.out / f"{name}.state",
        )

    # SSMs

    @property
    def _superfluous(self) -> set[str]:
        """SSMs for which too few prompts are left."""
        state = self._boosting
        if len(state.pool) >= self._config.boosting.least:
            return set()
        return {f"ssm-{n + 1}" for n in range(len(state.marked), self._config.boosting.ssms)}

    @property
    def _boosting(self) -> Boosting:
        """What the SSMs that are done have learned, out of their ranks."""
        train = self._written[TRAIN]
        config = self._config.boosting
        state = Boosting(len(train))
        for ranks in self._ranks(TRAIN):
            parts = np.split(ranks, train.output_starts[1:-1])
            state = state.learned(
                [is_reproduced(parts[p], config.first, config.share) for p in state.pool]
            )
        return state

    def _train_ssm(self, name: str, budget: Budget) -> bool:
        number = int(name.removeprefix("ssm-"))
        if (self.out / "ranks" / f"{name}.safetensors").is_file():
            return True
        config = self._config
        state = self._boosting
        is_next = number > 1 and config.boosting.start == "previous"
        network = self._new_network()
        _load_weights(network, self._weights(f"ssm-{number - 1}" if is_next else BASE))
        packer = Packer(self._written[TRAIN], self._vocabulary, config.training.row_tokens)
        lesson = state.lesson(config.boosting.keep, config.training.seed)
        # An order of its own: SSMs that see the same texts should not become the same.
        training = replace(config.training, seed=config.training.seed + number)
        trainer = self._trainer(network, packer, lesson, training, name)
        if not trainer.run(budget, self._watch, f"{name} ({len(lesson):,} texts)"):
            return False
        self._keep_curve(name, trainer)
        _save_weights(network, self._weights(name))
        save_ssm(network, self._vocabulary, self.out / name, self._dtype)
        self._measure(network, name)
        (self.out / f"{name}.state").unlink(missing_ok=True)
        self._report()
        return True

    def _weights(self, name: str) -> Path:
        return self.out / f"{name}.safetensors"

    def _measure(self, network: Network, name: str) -> None:
        """Keep the ranks that an SSM gives the LLM's tokens, of all sets."""
        ranks = {}
        for number, (set_name, corpus) in enumerate(self._written.items()):
            self._watch(f"reading along with {name}", number, len(self._written), set_name)
            longest = int(np.diff(corpus.starts).max())
            # A round number: only few shapes are compiled or chosen for.
            packer = Packer(corpus, self._vocabulary, -(-longest // 64) * 64)
            rows = max(1, self._config.training.batch_tokens // packer.length)
            ranks[set_name] = ranks_of(
                network, packer, range(len(corpus)), len(self._vocabulary), self._device, rows
            )
        folder = self.out / "ranks"
        folder.mkdir(exist_ok=True)
        half = folder / f"{name}.half"
        save_file(ranks, half)
        half.replace(folder / f"{name}.safetensors")

    def _ranks(self, set_name: str) -> list[NDArray[np.int32]]:
        """By SSM that is done."""
        files = (self.out / "ranks" / f"{phase}.safetensors" for phase in self.phases[3:])
        return [load_file(file)[set_name] for file in files if file.is_file()]

    # What is told

    def _keep_curve(self, name: str, trainer: Trainer) -> None:
        path = self.out / "loss.json"
        curves = json.loads(path.read_text()) if path.is_file() else {}
        save_curve(curves | {name: trainer.curve}, self.out)

    def _report(self) -> None:
        (self.out / "report.json").write_text(json.dumps(self.report(), indent=1) + "\n")

    def report(self) -> dict[str, Any]:
        """What came out so far, as plain values."""
        written = self._written if (self.out / f"{WRITING}.done").is_file() else {}
        found: dict[str, Any] = {
            "config": asdict(self._config),
            "sets": {n: {"texts": len(c), "tokens": c.num_outputs} for n, c in written.items()},
            "ssms": [str(folder) for folder in self._folders()],
        }
        if not found["ssms"]:
            return found
        config = self._config.boosting
        state = self._boosting
        found["rule"] = {"first": config.first, "share": config.share}
        found["marked"] = [len(prompts) for prompts in state.marked]
        found["left"] = len(state.pool)
        known = len(self._vocabulary)
        found["measured"] = {
            name: _figures(corpus, self._ranks(name), self._config.evaluation.expansion, known)
            for name, corpus in written.items()
        }
        return found

    def _folders(self) -> Iterator[Path]:
        for phase in self.phases[3:]:
            if (self.out / "ranks" / f"{phase}.safetensors").is_file():
                yield self.out / phase

    @cached_property
    def _llm(self) -> Checkpoint:
        return self._open(self._config.llm)

    def _open(self, name: str) -> Checkpoint:
        return open_checkpoint(locate(name, self._home) or fetch(name, self._home))


def _figures(
    corpus: Corpus, ranks: Sequence[NDArray[np.int32]], expansion: Sequence[int], known: int
) -> dict[str, Any]:
    """How often SSMs are right, and tokens per step of each, and of the first 1, 2, ... merged.

    Tokens per step are those of some texts at even distances, where there are very many.
    """
    texts = [np.split(own, corpus.output_starts[1:-1]) for own in ranks]
    some = np.unique(np.linspace(0, len(corpus) - 1, MEASURED_TEXTS).astype(int)).tolist()

    def per_step(ssms: Sequence[int], widths: Sequence[int]) -> float:
        steps = [
            tokens
            for text in some
            for tokens in tokens_of_steps([texts[s][text] for s in ssms], [widths] * len(ssms))
        ]
        return float(np.mean(steps)) if steps else 0.0

    numbers = range(len(ranks))
    return {
        "top1": [float((own == 0).mean()) for own in ranks],
        "top3": [float((own < 3).mean()) for own in ranks],
        "unknown": float((ranks[0] == known).mean()),
        "chain": {
            "each": [per_step([n], CHAIN) for n in numbers],
            "merged": [per_step(range(n + 1), CHAIN) for n in numbers],
        },
        "tree": {
            "expansion": list(expansion),
            "each": [per_step([n], expansion) for n in numbers],
            "merged": [per_step(range(n + 1), expansion) for n in numbers],
        },
    }


def _save_weights(network: Network, path: Path) -> None:
    """Float32, for whoever goes on from there."""
    weights = {n: w.detach().cpu().numpy() for n, w in network.named_parameters()}
    half = path.with_suffix(".half")
    save_file(weights, half)
    half.replace(path)


def _load_weights(network: Network, path: Path) -> None:
    weights: Mapping[str, NDArray[Any]] = load_file(path)
    network.load_state_dict({n: torch.from_numpy(w) for n, w in weights.items()})
