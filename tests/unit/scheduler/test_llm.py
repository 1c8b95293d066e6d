"""The Python front door, on a tiny model in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.models.checkpoint_files import weights, write_folder

from specinfer import LLM, BatchConfig, GenerationConfig, NGram, PrefixSSM, ServingConfig
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.engine import Engine, Event
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.llm import GenerationResult, Prompt

PROMPT = "Mars is red."
GENERATION = GenerationConfig(max_new_tokens=12, ignore_eos=True)
BATCH = BatchConfig(max_requests=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny", weights("llama", 320))


@pytest.fixture
def llm(folder: Path) -> LLM:
    llm = LLM(folder)
    llm.compile(GENERATION, ssms=[NGram(4)], batch=BATCH)
    return llm


def one(result: GenerationResult | list[GenerationResult]) -> GenerationResult:
    assert isinstance(result, GenerationResult)
    return result


def test_one_prompt_gives_one_result_and_a_list_a_list(llm: LLM) -> None:
    result = one(llm.generate(PROMPT))
    assert len(result.output_tokens) == 12
    assert result.finish_reason == "length"
    prompts: list[Prompt] = [PROMPT, llm.encode(PROMPT), PROMPT]
    assert llm.generate(prompts) == [result] * 3


def test_a_configuration_gives_the_same_text(llm: LLM, folder: Path) -> None:
    config = ServingConfig(
        model=str(folder), drafts=(PrefixSSM(1, (2, 1)),), batch=BATCH, generation=GENERATION
    )
    assert LLM.from_config(config).generate(PROMPT) == llm.generate(PROMPT)


def test_an_interrupted_text_is_not_finished_by_the_next_call(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = one(llm.generate(PROMPT))
    run = Engine.run

    def interrupted(engine: Engine) -> Iterator[Event]:
        for _ in range(3):
            yield from engine.step()
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate([PROMPT] * 4)
    monkeypatch.setattr(Engine, "run", run)
    num_tokens = llm.stats.num_tokens
    assert one(llm.generate(PROMPT)) == result
    assert llm.stats.num_tokens == num_tokens + 12


def test_what_is_no_token_is_refused_and_does_no_harm(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"token 999999, expected 0 to \d+"):
        llm.generate([999999])
    assert one(llm.generate(PROMPT)).finish_reason == "length"


def test_refuses_a_type_and_an_executor_that_it_does_not_know(llm: LLM, folder: Path) -> None:
    with pytest.raises(ConfigError, match="dtype is 'float16', expected float32 or bfloat16"):
        LLM(folder, dtype="float16")
    with pytest.raises(ConfigError, match="executor is 'gpu', expected serial or threads"):
        llm.compile(executor="gpu")


def test_must_be_compiled_first(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"this LLM is not compiled: call compile\(\) first"):
        LLM(folder).generate(PROMPT)
