"""A speculator of your own: it proposes the tokens that followed the last one most often so far.

Any module that can be imported may hold it: ``specinfer generate --draft python:MODULE:Follower``,
or ``drafts: [{plugin: "MODULE:Follower", options: {max_nodes: 2}}]`` in a configuration.

python examples/speculator.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from specinfer.scheduler.speculators import Context
from specinfer.scheduler.speculators.plugin import load_plugin
from specinfer.scheduler.token_tree import TokenTree

TEXT = "the cat saw the dog and the dog saw the bird and the"


class Follower:
    """Guesses one level: the most frequent followers of the last token in prompt and output."""

    name = "follower"

    def __init__(self, max_nodes: int = 3) -> None:
        self.max_nodes = max_nodes

    def draft(self, contexts: Sequence[Context]) -> list[TokenTree]:
        """A tree for each request, rooted at its last token."""
        return [self._tree(context.tokens, context.max_depth) for context in contexts]

    def accept(self, tokens: Mapping[int, Sequence[int]]) -> None:
        """The next context has them."""

    def release(self, request: int) -> None:
        """Nothing was kept."""

    def _tree(self, text: Sequence[int], max_depth: int) -> TokenTree:
        tree = TokenTree(text[-1])
        followers = Counter(after for before, after in pairwise(text) if before == text[-1])
        for token, _ in followers.most_common(self.max_nodes if max_depth else 0):
            tree.add(0, token)
        return tree


if __name__ == "__main__":
    words = TEXT.split()
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    known = list(numbers)
    speculator = load_plugin("__main__:Follower", {"max_nodes": 2})  # as the engine loads it
    for end in (4, 7, len(words)):
        text = [numbers[word] for word in words[:end]]
        (tree,) = speculator.draft([Context(request=0, tokens=text, max_depth=8)])
        print("...", known[tree.root], "->", " or ".join(known[token] for token in tree.tokens[1:]))

# Prints:
# ... the -> cat
# ... the -> cat or dog
# ... the -> dog or cat
