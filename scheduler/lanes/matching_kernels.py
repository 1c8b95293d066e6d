"""Kernels of :mod:`specinfer.scheduler.lanes.matching`: a block for each lane."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import cuda, float64, int64

from specinfer.scheduler.lanes.matching import MOST_MATCHING, MOST_PLACES
from specinfer.scheduler.lanes.trees_kernels import TOGETHER, new_before
from specinfer.scheduler.speculators.suffixes import LONGEST

NONE = -1
WORDS = MOST_MATCHING // TOGETHER


@cuda.jit
def match_text(length, text, tokens, parents, count, min_match, max_places, max_depth):
    """See the task. A thread looks at a token, and then belongs to a place.

    A group is named after its first place, who speaks for it. At any time every place is in one
    group at most, so that the groups that wait have room in arrays of places.
    """
    lane, me, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    end, capacity = length[lane], tokens.shape[1]
    latest = cuda.shared.array(MOST_PLACES, int64)  # places as they are found
    agrees = cuda.shared.array(MOST_PLACES, int64)
    at = cuda.shared.array(MOST_PLACES, int64)  # the same in order
    agreement = cuda.shared.array(MOST_PLACES, int64)
    group = cuda.shared.array(MOST_PLACES, int64)  # of a place; NONE: its text has ended
    follows = cuda.shared.array(MOST_PLACES, int64)  # the token of a place
    first = cuda.shared.array(MOST_PLACES, int64)  # place of the group that is grown with it
    likely = cuda.shared.array(MOST_PLACES, float64)  # of a group, as for all that follow
    order = cuda.shared.array(MOST_PLACES, int64)  # when it was found; NONE: it waits no longer
    above = cuda.shared.array(MOST_PLACES, int64)
    depths = cuda.shared.array(MOST_PLACES, int64)
    chosen = cuda.shared.array(1, int64)
    marks = cuda.shared.array(WORDS, int64)

    for node in range(me, capacity, threads):
        tokens[lane, node] = text[lane, end - 1] if node == 0 and end > 0 else 0
        parents[lane, node] = -1
    places = find_places(text, lane, end, min_match, max_places, latest, marks)
    if me < places:
        agrees[me] = agreement_at(text, lane, end, latest[me])
    cuda.syncthreads()
    if me < places:
        rank = 0
        for i in range(places):
            if agrees[i] > agrees[me] or (agrees[i] == agrees[me] and i < me):
                rank += 1
        at[rank] = latest[me]
        agreement[rank] = agrees[me]
    if me < MOST_PLACES:
        group[me] = 0 if me < places else NONE
        order[me] = NONE
        if me == 0:
            likely[me] = 1.0
            depths[me] = 0
    cuda.syncthreads()

    node, grown = 0, 0  # of the group `grown`
    while places > 0 and node + 1 < capacity:
        depth, reached = depths[grown], likely[grown]
        is_member = me < places and group[me] == grown
        if me < places:
            follows[me] = NONE
            first[me] = NONE
            if is_member and depth < max_depth and at[me] + depth < end:
                follows[me] = text[lane, at[me] + depth]
        cuda.syncthreads()
        if is_member and follows[me] >= 0:
            i = 0
            while follows[i] != follows[me]:
                i += 1
            first[me] = i
        cuda.syncthreads()
        share = 0.0
        if is_member and first[me] == me:
            share = likelihood(group, agreement, follows, first, places, grown, depth, me)
        cuda.syncthreads()
        if is_member:
            group[me] = first[me]
            order[me] = NONE
            if first[me] == me:
                likely[me] = reached * share
                order[me] = node * MOST_PLACES + me
                above[me] = node
                depths[me] = depth + 1
        cuda.syncthreads()
        if me == 0:
            best = NONE
            for i in range(places):
                if order[i] >= 0 and (
                    best < 0
                    or likely[i] > likely[best]
                    or (likely[i] == likely[best] and order[i] < order[best])
                ):
                    best = i
            chosen[0] = best
            if best >= 0:
                tokens[lane, node + 1] = text[lane, at[best] + depths[best] - 1]
                parents[lane, node + 1] = above[best]
        cuda.syncthreads()
        grown = chosen[0]
        if grown < 0:
            break
        node += 1
    if me == 0:
        count[lane] = node + 1 if end > 0 else 0


@cuda.jit(device=True)
def find_places(text, lane, end, min_match, max_places, latest, marks):
    """Write the latest places, the last one first; return how many. For all threads of a block."""
    me, threads = cuda.threadIdx.x, cuda.blockDim.x
    words = threads // TOGETHER
    found = 0
    top = end - 1
    while top >= min_match and found < max_places:
        place = top - me
        is_one = place >= min_match
        if is_one:
            for back in range(1, min_match + 1):
                if text[lane, place - back] != text[lane, end - back]:
                    is_one = False
                    break
        if me < words:
            marks[me] = 0
        cuda.syncthreads()
        if is_one:
            cuda.atomic.or_(marks, me // TOGETHER, np.int64(1) << (me % TOGETHER))
        cuda.syncthreads()
        if is_one:
            rank = found + new_before(marks, me)
            if rank < max_places:
                latest[rank] = place
        found += new_before(marks, threads)
        top -= threads
        cuda.syncthreads()
    return min(found, max_places)


@cuda.jit(device=True)
def agreement_at(text, lane, end, place):
    """How many tokens before a place equal the last ones."""
    same = 0
    while (
        same < LONGEST
        and same < place
        and text[lane, place - 1 - same] == text[lane, end - 1 - same]
    ):
        same += 1
    return same


@cuda.jit(device=True)
def likelihood(group, agreement, follows, first, places, grown, depth, me):
    """How likely the token of place ``me`` comes behind a group, of which that is a member.

    The arithmetic is that of the reference, in the same order: ties are ties for both.
    """
    left, value = 1.0, 0.0
    seen, different, own = 0, 0, 0
    i = 0
    while i < places:
        if group[i] != grown:
            i += 1
            continue
        alike = agreement[i]
        while i < places and (group[i] != grown or agreement[i] == alike):
            if group[i] == grown and follows[i] >= 0:
                seen += 1
                if first[i] == i:
                    different += 1
                if follows[i] == follows[me]:
                    own += 1
            i += 1
        if seen > 0:
            belief = max(1.0 - 1.0 / (alike + depth), 0.25)
            belief = max(belief, (seen - 1) / (seen + different))
            if own > 0:
                value += left * belief * own / seen
            left *= 1.0 - belief
    return value
