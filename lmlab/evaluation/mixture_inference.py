"""Data mixture inference (Hayase et al. 2024, arXiv 2407.16607): what a BPE was trained on, from its merge list.

The trainer merged the most frequent pair of its text. With c_ip(t) the frequency of pair p in category i before merge
m_t, shares alpha that explain the list satisfy, for every step t and pair p,

    sum_i alpha_i c_i,m_t(t) + v_t + v_p >= sum_i alpha_i c_ip(t),    v >= 0,

and a linear programme finds the shares (of bytes) with the least slack sum_t v_t + sum_p v_p.
"""


import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack

from lmlab.errors import UserError
from lmlab.text.merges import join, merge_steps

PER_STEP = 8  # constraints added per step and round, the most violated ones
TOLERANCE = 1e-9  # of a constraint, in shares of the text


class _Step:
    """The pairs that could have been more frequent than the merge in some mixture, and by how much in each category."""

    def __init__(self, step, sizes):
        excess = (step.counts - step.counts[step.merge]) / sizes
        self.rows = np.flatnonzero((excess > 0).any(axis=1))  # of others, no mixture violates the constraint
        self.excess = excess[self.rows].astype(np.float32)

    def worst(self, shares, slack_t, slack_p):
        """Places among `rows` of the most violated constraints."""
        over = self.excess @ shares.astype(np.float32) - slack_t - slack_p[self.rows]
        worst = np.argpartition(-over, PER_STEP - 1)[:PER_STEP] if len(over) > PER_STEP else np.arange(len(over))
        return worst[over[worst] > TOLERANCE]


def infer_mixture(merges, corpora, rounds=200):
    """Share of each category in the text that gave `merges`, float64 [categories].

    `corpora`: {pre-token: count} of a sample of each (`lmlab.text.merges.count_words`). Constraints join the programme
    as they are violated, until none is. UserError for fewer than two categories, an empty one or no merges, and where
    `rounds` are too few.
    """
    if len(corpora) < 2 or not all(corpora) or not merges:
        raise UserError("Mixture inference needs merges and text of at least two categories.")
    n = len(corpora)
    sizes = np.array([sum(len(w) * c for w, c in words.items()) for words in corpora], float)
    steps = []
    for step in merge_steps(merges, join(corpora)):
        steps.append(_Step(step, sizes))
        pairs = len(step.pairs)
    shares, slack_t, slack_p = np.full(n, 1 / n), np.zeros(len(steps)), np.zeros(pairs)
    chosen = [set() for _ in steps]
    for _ in range(rounds):
        violated = 0
        for t, step in enumerate(steps):
            new = set(step.worst(shares, slack_t[t], slack_p).tolist()) - chosen[t]
            chosen[t] |= new
            violated += len(new)
        if not violated:
            return shares
        shares, slack_t, slack_p = _solve(n, steps, chosen, pairs)
    raise UserError(f"Mixture inference still violates {violated} constraints after {rounds} rounds.")


def _solve(n, steps, chosen, pairs):
    """(shares, slacks of the steps, slacks of the pairs) of the programme with the chosen constraints."""
    at = [(t, place) for t, places in enumerate(chosen) for place in sorted(places)]
    excess = np.array([steps[t].excess[place] for t, place in at], float).reshape(-1, n)
    of_step = np.array([t for t, _ in at], int)
    of_pair = np.array([steps[t].rows[place] for t, place in at], int)
    used, column = np.unique(of_pair, return_inverse=True)
    rows, ones = np.arange(len(at)), -np.ones(len(at))
    scale = np.abs(excess).max()  # the solver's tolerances are absolute
    table = hstack([
        csr_matrix(excess / scale),
        csr_matrix((ones, (rows, of_step)), (len(at), len(steps))),
        csr_matrix((ones, (rows, column)), (len(at), len(used))),
    ])
    cost = np.concatenate([np.zeros(n), np.ones(len(steps) + len(used))])
    total = np.concatenate([np.ones(n), np.zeros(len(steps) + len(used))])
    found = linprog(cost, A_ub=table.tocsr(), b_ub=np.zeros(len(at)), A_eq=total[None], b_eq=[1.0], method="highs")
    if found.x is None:
        raise UserError(f"The linear programme of mixture inference has no solution: {found.message}")
    slack_p = np.zeros(pairs)
    slack_p[used] = found.x[n + len(steps) :] * scale
    return found.x[:n], found.x[n : n + len(steps)] * scale, slack_p


def random_mixture(n, rng):
    """Shares of `n` categories, every mixture alike."""
    return rng.dirichlet(np.ones(n))


def take(documents, size):
    """Documents from the first on, of `size` bytes together, the last one cut; UserError if there are not so many."""
    taken = []
    for data in documents:
        if size <= 0:
            break
        taken.append(data[:size].decode("utf-8", "ignore").encode() if len(data) > size else data)
        size -= len(data)
    if size > 0:
        raise UserError(f"A category has {size:,} bytes too few for its share of the mixture.")
    return taken


def log_mean_squared_error(shares, truth):
    """log10 of the mean squared error of shares [.., n], floored at 1e-16."""
    error = np.mean((np.asarray(shares) - np.asarray(truth)) ** 2, axis=-1)
    return np.log10(np.maximum(error, 1e-16))


def guesses(n, rng, count=1000):
    """(mean log10 MSE of random shares, of equal shares) against random mixtures."""
    truth, other = (np.array([random_mixture(n, rng) for _ in range(count)]) for _ in range(2))
    equal = np.full(n, 1 / n)
    return float(log_mean_squared_error(other, truth).mean()), float(log_mean_squared_error(equal, truth).mean())
