"""The suffix index against a search that looks everywhere, and the files of a corpus."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from specinfer.runtime.errors import ConfigError
from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.corpus_files import read_texts
from specinfer.scheduler.speculators.ngram import CORPUS_PLACES, NGramSpeculator
from specinfer.scheduler.speculators.suffixes import LONGEST, SuffixIndex
from specinfer.scheduler.token_tree import TokenTree

Found = list[tuple[int, list[int]]]


def searched(texts: Sequence[Sequence[int]], text: Sequence[int], least: int) -> Found:
    """All places, by looking at each: how many tokens agree, and what follows."""
    found = []
    for other in texts:
        for place in range(1, len(other)):
            agree = 0
            while agree < min(place, len(text), LONGEST) and (
                other[place - 1 - agree] == text[-1 - agree]
            ):
                agree += 1
            if agree >= least:
                found.append((agree, list(other[place:])))
    return sorted(found, key=lambda hit: (-hit[0], hit[1]))


def indexed(
    texts: Sequence[Sequence[int]], text: Sequence[int], least: int, most: int = 10_000
) -> Found:
    index, found = SuffixIndex(texts), []
    for agreement, place in index.places(text, least, most):
        behind = index.tokens[place:].tolist()
        found.append((agreement, behind[: behind.index(-1)]))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_finds_all_places_with_how_long_they_agree(seed: int) -> None:
    generator = random.Random(seed)
    vocabulary = generator.choice([1, 2, 3, 20])
    texts = [
        [generator.randrange(vocabulary) for _ in range(generator.choice([0, 1, 2, 50]))]
        for _ in range(generator.randint(0, 5))
    ]
    text = [generator.randrange(vocabulary) for _ in range(generator.randint(1, 50))]
    if texts and generator.random() < 0.5:
        text = [*text, *generator.choice(texts)[:40]]
    least = generator.choice([1, 2, 3])
    found = indexed(texts, text, least)
    assert [n for n, _ in found] == sorted((n for n, _ in found), reverse=True)
    assert sorted(found, key=lambda hit: (-hit[0], hit[1])) == searched(texts, text, least)


def test_of_many_places_some_are_looked_at_and_the_longest_are_kept() -> None:
    texts = [[9, 1, 2, 3], *([n, 2, 4] for n in range(10, 200)), [8, 9, 1, 2, 5]]
    found = indexed(texts, [8, 9, 1, 2], 1, most=20)
    assert found[:2] == [(4, [5]), (3, [3])]
    assert 15 < len(found) <= 20
    assert all(hit == (1, [4]) for hit in found[2:])


def test_counts_its_tokens() -> None:
    assert len(SuffixIndex([[1, 2], [], [3]])) == 3
    assert indexed([], [1, 2], 1) == []


# With n-grams


def drawn(texts: Sequence[Sequence[int]], text: Sequence[int], depth: int = 9) -> TokenTree:
    speculator = NGramSpeculator(corpus=SuffixIndex(texts))
    (tree,) = speculator.draft([Context(0, text, depth)])
    return tree


def test_proposes_what_followed_in_the_corpus_up_to_the_end_of_its_text() -> None:
    tree = drawn([[7, 1, 2, 3, 4], [5, 5]], [9, 1, 2])
    assert tree.path(len(tree) - 1) == [2, 3, 4]
    assert len(tree) == 3


def test_the_text_itself_and_the_corpus_make_one_tree() -> None:
    tree = drawn([[1, 2, 3]], [1, 2, 4, 9, 1, 2], depth=1)
    assert sorted(tree.tokens[1:]) == [3, 4]


def test_what_followed_more_often_is_likelier() -> None:
    tree = drawn([[1, 2, 3]] * 6 + [[1, 2, 4]] * 3, [1, 2], depth=1)
    assert tree.tokens == [2, 3, 4]
    assert tree.log_probs[1] > tree.log_probs[2]
    more = drawn([[1, 2, 3]] * 60, [1, 2], depth=1)
    assert more.log_probs[1] > tree.log_probs[1]


def test_the_place_that_agrees_longest_is_trusted_most() -> None:
    texts = [[5, 6, 7, 1, 2, 3], *[[1, 2, 4]] * 3]
    assert drawn(texts, [5, 6, 7, 1, 2], depth=1).tokens[1] == 3


@pytest.mark.parametrize("seed", range(20))
def test_likelihoods_are_of_a_tree(seed: int) -> None:
    """A child is less likely than what is above it, and children together no more than it."""
    generator = random.Random(seed)
    texts = [[generator.randrange(3) for _ in range(60)] for _ in range(3)]
    speculator = NGramSpeculator(60, 1, corpus=SuffixIndex(texts))
    (tree,) = speculator.draft([Context(0, texts[0][:30], 9)])
    assert len(tree) > CORPUS_PLACES // 8
    probabilities = [2.718281828459045**log_prob for log_prob in tree.log_probs]
    assert probabilities[1:] == sorted(probabilities[1:], reverse=True)
    for node, probability in enumerate(probabilities):
        assert sum(probabilities[child] for child in tree.children(node)) < probability


# Files


def test_reads_plain_text_and_json_lines(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("one\ntwo\n")
    lines.write_text('"one"\n\n{"text": "t\\u2028wo", "more": 1}\n')
    assert read_texts(plain) == ["one\ntwo\n"]
    assert read_texts(lines) == ["one", "t\u2028wo"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n", "a.txt: expected some text, found none"),
        ("a.jsonl", b"\n", "a.jsonl: expected some text, found none"),
        ("a.txt", b"\xff", "a.txt: 'utf-8' codec"),
        ("a.jsonl", b'"x"\n{', r"a.jsonl:2: not JSON"),
        ("a.jsonl", b'"x"\n3', r"a.jsonl:2: expected a text, or an object with `text`"),
        ("a.jsonl", b'{"texts": "x"}', r"a.jsonl:1: expected a text, or an object with `text`"),
    ],
)
def test_refuses_files_with_the_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"corpus .*{message}"):
        read_texts(tmp_path / name)


def test_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus .*none\.txt: No such file"):
        read_texts(tmp_path / "none.txt")
