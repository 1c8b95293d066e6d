"""A verified token tree as a person reads it: what was guessed, and how far it was right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from specinfer.models.tokenizer import Tokenizer
from specinfer.scheduler.engine import Event
from specinfer.scheduler.token_tree import TokenTree

RIGHT, WRONG, OWN = "bold green", "dim", "bold"


def render_tree(
    tree: TokenTree, accepted: Sequence[int], own: Sequence[int], show: Callable[[int], str]
) -> Tree:
    """Draw a tree, each run of tokens without a fork on one line.

    Args:
        tree: what was guessed.
        accepted: its nodes on the accepted path, without the root.
        own: the LLM's token behind them; none if the text ended before.
        show: a token as text.
    """
    right = {0, *accepted}

    def grow(branch: Tree, node: int) -> None:
        for child in tree.children(node):
            run = list(_run(tree, child, right))
            mark, style = ("✓", RIGHT) if child in right else ("✗", WRONG)
            words = " ".join(show(tree.tokens[n]) for n in run)
            grow(branch.add(Text(f"{mark} {words}", style)), run[-1])
        if own and node == (accepted[-1] if accepted else 0):
            branch.add(Text(f"+ {show(own[0])}", OWN).append("  the LLM's own", "not bold dim"))

    drawn = Tree(Text(show(tree.root)), guide_style="dim")
    grow(drawn, 0)
    return drawn


def _run(tree: TokenTree, node: int, right: set[int]) -> Iterator[int]:
    """``node`` and what follows it, as long as there is one way on, as right as it is."""
    is_right = node in right
    while True:
        yield node
        children = tree.children(node)
        if len(children) != 1 or (children[0] in right) != is_right:
            return
        (node,) = children


class TreeView:
    """Prints the trees of each request's first steps.

    Args:
        tokenizer: the model's.
        console: where to print.
        num_steps: of each request.
        num_requests: if more than one, each tree says whose it is.
    """

    def __init__(
        self, tokenizer: Tokenizer, console: Console, num_steps: int, num_requests: int = 1
    ) -> None:
        self._tokenizer = tokenizer
        self._console = console
        self._num_steps = num_steps
        self._shown = [0] * num_requests

    @property
    def is_done(self) -> bool:
        """Whether all that was asked for is printed."""
        return min(self._shown) >= self._num_steps

    def show(self, event: Event, number: int = 0) -> None:
        """Print the tree of a step, if there is one to print.

        Args:
            event: what the step did.
            number: of the request, from 0.
        """
        if event.tree is None or self._shown[number] >= self._num_steps:
            return
        self._shown[number] += 1
        whose = f"text {number + 1}, " if len(self._shown) > 1 else ""
        self._console.print(
            f"[bold]{whose}step {self._shown[number]}[/]: "
            f"{len(event.accepted)} of {len(event.tree) - 1} guesses accepted"
        )
        own = event.tokens[len(event.accepted) :]
        words = token_as_text(self._tokenizer)
        self._console.print(render_tree(event.tree, event.accepted, own, words))
        self._console.print()


def token_as_text(tokenizer: Tokenizer) -> Callable[[int], str]:
    """What shows a token, in quotes."""
    return lambda token: repr(tokenizer.decode([token], skip_special_tokens=False))
