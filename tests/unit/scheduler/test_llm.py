"""The Python front door, on a tiny model in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from unit.models.checkpoint_files import weights, write_folder

from specinfer import (
    LLM,
    BatchConfig,
    GenerationConfig,
    NGram,
    PrefixSSM,
    ServingConfig,
    Speculation,
    SpeculationConfig,
)
from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.engine import Engine, Event
from specinfer.scheduler.errors import RequestError
from specinfer.scheduler.llm import GenerationResult, Prompt
from specinfer.scheduler.sampling.logprobs import TokenLogprobs
from specinfer.scheduler.sampling.seeds import seed_of_copy

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


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_call_says_how_much_is_guessed(folder: Path, adaptive: bool) -> None:
    llm = LLM(folder)
    allowed = SpeculationConfig(adaptive=adaptive, max_nodes=2)
    llm.compile(GENERATION, ssms=[PrefixSSM(1, (2, 2))], batch=BATCH, speculation=allowed)
    sizes = []
    for speculation in (None, Speculation(enabled=False), Speculation(max_depth=1)):
        (request,) = llm.submit([PROMPT], speculation=speculation)
        trees = [event.tree for event in llm.run() if event.tree is not None]
        sizes.append(max(len(tree) - 1 for tree in trees))
        assert len(request.output) == 12
    assert sizes == [2, 0, 2]


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
    with pytest.raises(RequestError, match=r"^prompt 1: token 999999, expected 0 to \d+"):
        llm.generate([999999])
    with pytest.raises(RequestError, match=r"^prompt 2: token 999999, expected 0 to \d+"):
        llm.generate([[1], [999999]], replace(SAMPLED, n=2))
    assert one(llm.generate(PROMPT)).finish_reason == "length"


def test_refuses_a_type_and_an_executor_that_it_does_not_know(llm: LLM, folder: Path) -> None:
    with pytest.raises(ConfigError, match="dtype is 'float16', expected float32 or bfloat16"):
        LLM(folder, dtype="float16")
    with pytest.raises(ConfigError, match="executor is 'gpu', expected serial or threads"):
        llm.compile(executor="gpu")


def test_texts_whose_trees_may_follow_from_each_other_have_noise_of_their_own(llm: LLM) -> None:
    given = replace(SAMPLED, seed=5, n=2)
    mss = SpeculationConfig(verifier="mss")
    llm.compile(GENERATION, ssms=[NGram(4)], speculation=mss, batch=BATCH)
    results = llm.generate([PROMPT, PROMPT, "Mars"], given)
    assert isinstance(results, list)
    assert results[0].seed == 5
    assert len({result.seed for result in results}) == 6
    llm.compile(GENERATION, ssms=[NGram(4)], batch=BATCH)
    results = llm.generate([PROMPT, PROMPT, "Mars"], given)
    assert isinstance(results, list)
    assert [result.seed for result in results] == [5, results[1].seed] * 3


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_iterations_ahead_write_the_same_texts_to_the_same_ends(
    folder: Path, executor: str
) -> None:
    results = []
    for lookahead in (0, 1):
        llm = LLM(folder)
        batch = BatchConfig(max_requests=2, lookahead=lookahead)
        llm.compile(GENERATION, ssms=[NGram(4)], batch=batch, executor=executor)
        plain = one(llm.generate(PROMPT))
        text = plain.output_text[len(plain.output_text) // 2 :][:2]
        config = replace(SAMPLED, seed=5, n=3)
        stopped = llm.generate([PROMPT] * 3, replace(GENERATION, stop=(text,)))
        results.append((plain, stopped, llm.generate([PROMPT, "Mars"], config)))
    assert results[0] == results[1]


def test_trees_cannot_follow_what_was_not_yet_read(llm: LLM) -> None:
    adaptive, batch = SpeculationConfig(adaptive=True), BatchConfig(lookahead=1)
    with pytest.raises(ConfigError, match=r"speculation.adaptive is true and batch.lookahead 1"):
        llm.compile(GENERATION, ssms=[NGram(4)], batch=batch, speculation=adaptive)


def test_must_be_compiled_first(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"this LLM is not compiled: call compile\(\) first"):
        LLM(folder).generate(PROMPT)


SAMPLED = GenerationConfig(max_new_tokens=12, ignore_eos=True, temperature=1.5)


def test_a_configuration_of_a_call_stands_above_that_of_compile(llm: LLM) -> None:
    config = replace(SAMPLED, seed=5)
    result = one(llm.generate(PROMPT, config))
    assert result.seed == 5
    assert result == one(llm.generate(PROMPT, config))
    assert result.output_tokens != one(llm.generate(PROMPT)).output_tokens
    assert one(llm.generate(PROMPT)).seed is None


def test_a_drawn_seed_gives_the_text_again(llm: LLM) -> None:
    results = llm.generate([PROMPT, PROMPT], SAMPLED)
    assert isinstance(results, list)
    first, second = results
    assert first.seed != second.seed
    for result in results:
        assert llm.generate(PROMPT, replace(SAMPLED, seed=result.seed)) == result


def test_texts_of_a_prompt_stand_one_after_the_other(llm: LLM) -> None:
    results = llm.generate(PROMPT, replace(SAMPLED, n=3, seed=5))
    assert isinstance(results, list)
    assert [result.seed for result in results] == [seed_of_copy(5, copy) for copy in range(3)]
    assert one(llm.generate(PROMPT, replace(SAMPLED, seed=5))) == results[0]


def test_bad_words_are_banned_at_the_start_and_behind_a_space(llm: LLM) -> None:
    word = "Mars"
    config = replace(SAMPLED, bad_words=(word,), stop_token_ids=(3,), min_new_tokens=2)
    params = config.sampling(llm.tokenizer, 1)
    encode = llm.tokenizer.encode
    assert params.bad_words == tuple(
        tuple(encode(text, add_special_tokens=False)) for text in (word, f" {word}")
    )
    assert params.end_ids == {3}
    ends = replace(config, ignore_eos=False).sampling(llm.tokenizer, 1).end_ids
    assert ends == {3} | llm.tokenizer.eos_ids


def test_log_probabilities_are_those_that_the_engine_told(llm: LLM) -> None:
    (request,) = llm.submit([PROMPT], replace(SAMPLED, logprobs=2))
    told = [TokenLogprobs(token, -1.0, ((token, -1.0),)) for token in (7, 8)]
    request.take([7, 8], told)
    assert llm.result(request).logprobs == told
