"""The planted speculator: as often right as it was told to be, at the cost of a real SSM."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from tiny_models import (
    Sizes,
    audit_kv,
    make_bench,
    make_decoder,
    make_room,
    noisy_copy,
    tiny_config,
    tiny_model,
)

from specinfer.models.batch import TokenBatch
from specinfer.models.model import Model
from specinfer.runtime.context import Runtime
from specinfer.runtime.errors import ConfigError
from specinfer.runtime.region import Subregion
from specinfer.scheduler.engine import Engine
from specinfer.scheduler.request import Request
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.planted import Acceptance, PlantedSpeculator, Told
from specinfer.scheduler.speculators.ssm import most_nodes

LLM = tiny_model(4, tiny_config(vocabulary=12))
SIZES = Sizes(requests=4, rows=64, length=640)
SAMPLES = 250
"""Steps behind each measured share, at least."""


def requests(tokens: int = 600) -> list[Request]:
    generator = random.Random(3)
    prompts = [[generator.randrange(12) for _ in range(5 + n)] for n in range(4)]
    return [Request(id=n, prompt=prompt, max_new_tokens=tokens) for n, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def told() -> Told:
    asked = requests()
    make_bench(LLM, sizes=SIZES).write(asked)
    return {tuple(request.prompt): request.output for request in asked}


def planted(
    expansion: Sequence[int],
    acceptance: Acceptance,
    told: Told,
    runtime: Runtime | None = None,
    *,
    nodes: int = 0,
    seed: int = 0,
) -> PlantedSpeculator:
    _, computed = most_nodes(expansion, nodes)
    decoder = make_decoder(noisy_copy(LLM, 1), SIZES, nodes=computed, runtime=runtime)
    return PlantedSpeculator(decoder, expansion, acceptance, told, nodes=nodes, seed=seed)


def engine_of(speculator: PlantedSpeculator, runtime: Runtime) -> Engine:
    llm = make_decoder(LLM, SIZES, nodes=speculator.max_nodes, runtime=runtime)
    return Engine(llm, [speculator])


def measured(engine: Engine) -> tuple[Counter[int], Counter[tuple[int, int]]]:
    """Steps whose path got to each depth's parent, and those where the child of a rank was right.

    Steps that the end of a text may have cut short are left out.
    """
    reached, right = Counter[int](), Counter[tuple[int, int]]()
    for request in requests():
        engine.submit(request)
    for event in engine.run():
        tree = event.tree
        if tree is None or event.request.num_remaining < 8:
            continue
        for depth, node in enumerate([0, *event.accepted]):
            children = tree.children(node)
            reached[depth] += bool(children)
            for rank, child in enumerate(children):
                right[depth, rank] += child in event.accepted
    return reached, right


@pytest.mark.parametrize(
    ("expansion", "acceptance"),
    [
        ((1, 1, 1, 1), [[0.7]] * 4),
        ((3, 2, 1), [[0.5, 0.2, 0.1], [0.3, 0.3], [0.9]]),
        ((2, 2), [[0.0, 0.6], [0.5]]),
    ],
    ids=["chain", "tree", "never the first"],
)
def test_is_right_as_often_as_it_was_told_to_be(
    told: Told, expansion: Sequence[int], acceptance: Acceptance
) -> None:
    runtime = Runtime()
    engine = engine_of(planted(expansion, acceptance, told, runtime), runtime)
    reached, right = measured(engine)
    for depth, width in enumerate(expansion):
        assert reached[depth] > SAMPLES
        for rank in range(width):
            share = [*acceptance[depth], 0.0, 0.0][rank]
            spread = (share * (1 - share) / reached[depth]) ** 0.5
            assert abs(right[depth, rank] / reached[depth] - share) <= 4 * spread
    assert engine.stats.as_dict()["acceptance_by_speculator"][0]["speculator"] == "planted"


def test_the_text_is_the_llm_s_own(told: Told) -> None:
    runtime, asked = Runtime(), requests(40)
    engine = engine_of(planted((2, 1), [[0.3, 0.3], [0.5]], told, runtime), runtime)
    for request in asked:
        engine.submit(request)
    for _ in engine.run():
        pass
    for request in asked:
        assert request.output == list(told[tuple(request.prompt)][:40])


def test_always_right_is_right_at_every_node_of_a_path(told: Told) -> None:
    speculator = planted((1, 1, 1), [[1.0]] * 3, told)
    ((prompt, output), *_) = told.items()
    make_room(speculator, 0, 640)
    (tree,) = speculator.draft([Context(0, [*prompt, *output[:9]], 9, len(prompt))])
    assert tree.path(3)[1:] == list(output[9:12])


@pytest.mark.parametrize("text", ["another prompt", "another way"])
def test_does_not_guess_where_it_was_told_nothing(told: Told, text: str) -> None:
    speculator = planted((11,), [[1.0]], told)
    ((prompt, output), *_) = told.items()
    wrong = (output[0] + 1) % 12
    tokens = [wrong, *prompt] if text == "another prompt" else [*prompt, wrong]
    make_room(speculator, 0, 640)
    (tree,) = speculator.draft([Context(0, tokens, 9, len(prompt))])
    assert len(tree) == 12
    assert speculator._right(Context(0, tokens, 9, len(prompt)), tree, 0) is None


def test_chance_is_its_seed_s(told: Told) -> None:
    ((prompt, output), *_) = told.items()

    def trees(seed: int) -> list[list[int]]:
        speculator = planted((2, 2), [[0.5, 0.2], [0.5]], told, seed=seed)
        make_room(speculator, 0, 640)
        texts = [[*prompt, *output[:n]] for n in range(20)]
        return [speculator.draft([Context(0, t, 9, len(prompt))])[0].tokens for t in texts]

    assert trees(1) == trees(1) != trees(2)


def test_runs_every_step_of_the_ssm_and_keeps_what_was_accepted(told: Told) -> None:
    """As many passes over as many rows as the SSM would run that proposes the same."""
    expansion = (1, 1, 1)
    speculator = planted(expansion, [[1.0]] * 3, told)
    ((prompt, output), *_) = told.items()
    make_room(speculator, 0, 640)
    decoder, written = speculator.decoder, 0
    steps: list[int] = []
    forward = Model.forward

    def counted(self: Model, batch: TokenBatch) -> Subregion:
        steps.append(batch.num_rows)
        return forward(self, batch)

    for _ in range(4):
        text = [*prompt, *output[:written]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Model, "forward", counted)
            speculator.draft([Context(0, text, 9, len(prompt))])
        speculator.accept({0: output[written : written + 4]})
        written += 4
        text = [*prompt, *output[:written]]
        # Accepted leaves and the LLM's own token are computed with the next tree: no SSM has them.
        assert decoder.slots.length(0) == len(text) - 2
        assert audit_kv(decoder, noisy_copy(LLM, 1), 0, text) < 1e-4
    assert steps == [len(prompt), 1, 1, *[2, 1, 1] * 3]


def test_proposes_the_likeliest_of_a_larger_tree(told: Told) -> None:
    acceptance = [[0.5, 0.1], [0.8, 0.1]]
    speculator = planted((2, 2), acceptance, told, nodes=2)
    ((prompt, output), *_) = told.items()
    make_room(speculator, 0, 640)
    (tree,) = speculator.draft([Context(0, [*prompt, *output[:9]], 9, len(prompt))])
    assert tree.depths == [0, 1, 2]


@pytest.mark.parametrize(
    ("expansion", "acceptance", "message"),
    [
        ((1,), [[0.5], [0.5]], r"acceptance of 2 levels, expected at most the expansion's 1"),
        ((2, 1), [[0.5], [0.5, 0.1]], r"depth 2 is \[0\.5, 0\.1\], expected at most 1 prob"),
        ((2,), [[0.6, 0.6]], r"depth 1 is \[0\.6, 0\.6\], .* sum to at most 1"),
        ((2,), [[0.6, -0.1]], r"depth 1 is \[0\.6, -0\.1\]"),
        ((12,), [], r"expected widths below the 12 tokens"),
    ],
)
def test_refuses_what_cannot_be(
    expansion: Sequence[int], acceptance: Acceptance, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"planted: .*{message}"):
        planted(expansion, acceptance, {})
