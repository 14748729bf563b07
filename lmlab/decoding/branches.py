"""Many continuations of a few prompts at once, each of which others may branch off."""

from lmlab.decoding.copies import Copies
from lmlab.decoding.tree import Tree


def branches_of(model, params, prompts, room):
    """What grows behind prompts of token ids (each at least one, BOS), with room for `room` further tokens behind each.

    It has `log_probs`, of every prompt float32 [its tokens, V], what is predicted behind each of them; `roots`, the branch
    that each prompt is; `extend(branches, tokens, in_place=False)`, which gives new branches of one more token each and the
    log-probabilities [N, V] behind them, and leaves those that they branch off as they are, or `in_place`, where none may
    come twice, uses them up; and `release(branch)`: nothing branches off it any more.
    """
    can_branch = getattr(model.backbone, "can_branch", None)
    form = Tree if can_branch is not None and can_branch() else Copies
    return form(model, params, prompts, room)
