"""Token trees: two models guess how "Mars is" goes on; their trees are merged and verified at once.

The mask says who sees whom: a node sees itself and its ancestors, so that all paths are computed
in one pass, and none of them knows of the others.

python examples/token_tree.py
"""

from __future__ import annotations

from specinfer import TokenTree, merge
from specinfer.scheduler.verifiers import follow

WORDS = ["Mars is", "red", "-dish", "dark", "and", "in", "colour", "night"]
MARS, RED, DISH, DARK, AND, IN, COLOUR, NIGHT = range(len(WORDS))

first = TokenTree(MARS)  # the root is the last token that is known to be right
red = first.add(0, RED)
first.add(first.add(red, DISH), IN)
first.add(first.add(red, IN), COLOUR)

second = TokenTree(MARS)
second.add(second.add(second.add(0, RED), DISH), AND)
second.add(second.add(0, DARK), AND)

tree = merge([first, second])
print("the merged tree, who proposed each token, and the mask:")
for node, row in enumerate(tree.mask):
    word = "  " * tree.depths[node] + WORDS[tree.tokens[node]]
    drafters = ",".join(str(proposal.drafter + 1) for proposal in tree.proposals[node])
    print(f"{node}  {word:16}{drafters:5}", "".join(" x" if sees else " ." for sees in row))

# The LLM gives its likeliest next token behind every node; here it wants "reddish and dark".
wanted = {MARS: RED, RED: DISH, DISH: AND, AND: DARK}
predicted = [wanted.get(token, NIGHT) for token in tree.tokens]
accepted = follow(tree, predicted.__getitem__)
print("accepted nodes:", accepted.nodes)
print("one pass of the LLM wrote:", " ".join(WORDS[token] for token in accepted.tokens))

# Prints:
# the merged tree, who proposed each token, and the mask:
# 0  Mars is                x . . . . . . . .
# 1    red           1,2    x x . . . . . . .
# 2      -dish       1,2    x x x . . . . . .
# 3        in        1      x x x x . . . . .
# 4      in          1      x x . . x . . . .
# 5        colour    1      x x . . x x . . .
# 6        and       2      x x x . . . x . .
# 7    dark          2      x . . . . . . x .
# 8      and         2      x . . . . . . x x
# accepted nodes: [1, 2, 6]
# one pass of the LLM wrote: red -dish and dark
