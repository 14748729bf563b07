"""Next-token prediction of a model whose tokenizer has been exchanged."""

import dataclasses
from typing import Any

from lmlab.errors import UserError
from lmlab.models.transfer import transferred
from lmlab.objectives.next_token import NextToken


@dataclasses.dataclass(frozen=True)
class Transferred(NextToken):
    """Next-token prediction of a model that begins as another, of another tokenizer.

    `teacher`: the Run that trains the other, first. `method`: how the rows of the new tokenizer are made of the old
    (lmlab/models/transfer.py), for a model that is the teacher's but for its vocabulary; "" for one that begins anew.
    `weights`: where the teacher's run lies, which several students may share, or a converted model with its tokenizer;
    "": the teacher is trained beside the student. `donor`: for the method "omp", the Run of a model with the student's
    tokenizer, trained likewise; None: see `omp`, of which `k` is.
    """

    teacher: Any = None
    method: str = "fvt"
    weights: str = ""
    donor: Any = None
    k: int = 64

    def begin(self, model, params, teacher, tokenizer, donor=None, seed=0):
        """Parameters before the first step, as NumPy arrays: from fresh ones, the teacher's, both tokenizers (one alone
        is both's), and the donor's. `seed`: the run's, of rows that are drawn."""
        if not self.method:
            return params
        if model.backbone != self.teacher.model.backbone:
            raise UserError("A model takes over the teacher's weights only where its backbone is the teacher's.")
        old, new = (getattr(tokenizer, name, tokenizer) for name in ("teacher", "student"))
        return transferred(model, params, teacher, old, new, self.method, donor, self.k, seed)
