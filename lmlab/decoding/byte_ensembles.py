"""Several models as one, whatever each reads: their next-byte distributions mixed or multiplied."""

import numpy as np

from lmlab.errors import UserError


class ByteEnsemble:
    """`members`: of `Texts` (`ExactBytes` and alike) of the same prompts, with `weights` (default: equal) that sum to 1.

    A mixture is the weighted mean of the next-byte distributions, a product their weighted geometric mean, renormalised.
    It is used like its members: `next_bytes`, `feed`, `write_bytes`.
    """

    def __init__(self, members, weights=None, product=False):
        self.members, self.product = members, product
        self.weights = np.full(len(members), 1 / len(members)) if weights is None else np.asarray(weights, np.float64)
        if len(self.weights) != len(members) or abs(self.weights.sum() - 1) > 1e-9 or self.weights.min() < 0:
            raise UserError(f"An ensemble of {len(members)} needs as many weights, which sum to 1, not {weights}.")
        if len({len(member.frontiers) for member in members}) > 1:
            raise UserError("The members of an ensemble read the same number of texts.")

    def next_bytes(self):
        """float64 [B, 257]: probabilities of the next byte, and of the text's end."""
        p_MBC = np.stack([member.next_bytes() for member in self.members])
        if not self.product:
            p_BC = np.einsum("m,mbc->bc", self.weights, p_MBC)
            return p_BC / np.maximum(p_BC.sum(axis=1, keepdims=True), 1e-300)  # without members for whom it is impossible
        with np.errstate(divide="ignore"):
            log_p_BC = np.einsum("m,mbc->bc", self.weights, np.maximum(np.log(p_MBC), -1e300))
        p_BC = np.exp(log_p_BC - log_p_BC.max(axis=1, keepdims=True))
        return p_BC / p_BC.sum(axis=1, keepdims=True)

    def feed(self, bytes_B):
        """One byte more for every row; None: none for this one."""
        for member in self.members:
            member.feed(bytes_B)
