"""Many continuations of a few prompts at once, each of which others may branch off."""

from lmlab.decoding.copies import Copies
from lmlab.decoding.tree import Tree


def branches_of(model, params, prompts, room):
    """Branches of prompts of token ids (each at least one, BOS), with room for `room` further tokens behind each.

    `log_probs`: of every prompt, float32 [its tokens, V]: what is predicted behind each of them. `roots`: the branch that
    each prompt is. `extend(branches, tokens, in_place=False)`: (new branches, log-probabilities [N, V] behind one more token
    each); those that they branch off stay as they are, unless `in_place`, which uses them up. `release(branch)`: nothing
    branches off it any more.
    """
    can_branch = getattr(model.backbone, "can_branch", None)
    form = Tree if can_branch is not None and can_branch() else Copies
    return form(model, params, prompts, room)
