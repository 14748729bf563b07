"""Text drawn from Markov chains of a known order: what can be known about it is known exactly.

A document is a pure function of its number, starts in the stationary distribution, and belongs to the train split but
for every tenth, which is for validation and test in turn.
"""

import dataclasses
import functools

import numpy as np

from lmlab.data.corpora import Document
from lmlab.data.synthetic import SPLITS
from lmlab.errors import UserError

SYMBOLS = b"0123456789abcdef"


@dataclasses.dataclass(frozen=True)
class _Chain:
    """`count` documents of `size` symbols of a chain of order `order`. A state is the last `order` symbols, the oldest
    first, as the digits of a number."""

    synthetic = True

    order: int = 2
    count: int = 200
    size: int = 10_000
    validation: float = 0.1  # as the numbers are split; not to be changed
    test: float = 0.1

    def __post_init__(self):
        if self.order < 1 or self.count < 10 or self.size <= self.order:
            raise UserError("A Markov chain needs an order of at least 1, a count of at least 10 and size above the order.")

    def check(self):
        """There is nothing to be missing."""

    def tables(self):
        """(transitions float64 [states, symbols], stationary float64 [states])."""
        return _tables(dataclasses.replace(self, count=10, size=self.order + 1))

    def documents(self):
        """Yields every document once."""
        P, pi = self.tables()
        S, sums = P.shape[1], P.cumsum(axis=1)
        u = np.stack([np.random.default_rng((0, i)).random(self.size - self.order + 1) for i in range(self.count)])
        states = np.minimum(np.searchsorted(pi.cumsum(), u[:, 0]), len(pi) - 1)
        text = np.empty((self.count, self.size), np.uint8)
        for place in range(self.order):
            text[:, place] = states // S ** (self.order - 1 - place) % S
        for place in range(self.order, self.size):
            symbol = (u[:, place - self.order + 1, None] > sums[states, :-1]).sum(axis=1)
            text[:, place] = symbol
            states = states * S % S**self.order + symbol
        text = np.frombuffer(SYMBOLS, np.uint8)[text]
        for i, row in enumerate(text):
            yield Document(f"chain {i}", row.tobytes(), SPLITS.get(i % 10, "train"))

    def entropy_rate(self):
        """Nats per symbol that the best model of any kind needs."""
        P, pi = self.tables()
        return float(-(pi[:, None] * P * np.log(np.maximum(P, 1e-300))).sum())

    def unigram_entropy(self):
        """Nats per symbol that the best model without a context needs."""
        P, pi = self.tables()
        p = pi @ P
        return float(-(p * np.log(p)).sum())

    def log_probability(self, text):
        """Natural logarithm of the probability that a document starts with `text` (bytes)."""
        P, pi = self.tables()
        S, digits = P.shape[1], [SYMBOLS.index(b) for b in text]
        state = functools.reduce(lambda n, d: n * S + d, digits[: self.order], 0)
        missing = S ** max(0, self.order - len(digits))
        total = np.log(pi[state * missing : (state + 1) * missing].sum())
        for digit in digits[self.order :]:
            total += np.log(P[state, digit])
            state = state * S % S**self.order + digit
        return float(total)

    def following(self, text):
        """float64 [symbols]: probabilities of the symbol behind `text`."""
        letters = [SYMBOLS[i : i + 1] for i in range(self.tables()[0].shape[1])]
        logs = np.array([self.log_probability(text + letter) for letter in letters])
        return np.exp(logs - self.log_probability(text))

    def fingerprint(self):
        """Names the baked text."""
        parts = [repr(getattr(self, f.name)) for f in dataclasses.fields(self)]
        return "-".join([type(self).__name__.lower(), *parts])


@dataclasses.dataclass(frozen=True)
class SwitchingChain(_Chain):
    """Of two symbols, the next depends on the one `order` places before it alone: P(1 | 0) = p and P(0 | 1) = q
    (Rajaraman et al. 2024, arXiv 2404.08335)."""

    p: float = 0.8
    q: float = 0.8

    def _transitions(self):
        for name in "pq":
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"A probability of switching lies between 0 and 1, not {name}={getattr(self, name)}.")
        old = np.arange(2**self.order) >> (self.order - 1)
        one = np.where(old == 0, self.p, 1 - self.q)
        return np.stack([1 - one, one], axis=1)


@dataclasses.dataclass(frozen=True)
class RandomChain(_Chain):
    """Every row of the transitions is drawn evenly from all distributions, by `draw`."""

    symbols: int = 2
    draw: int = 0

    def _transitions(self):
        if not 2 <= self.symbols <= len(SYMBOLS):
            raise UserError(f"A chain has 2 to {len(SYMBOLS)} symbols, not {self.symbols}.")
        return np.random.default_rng(self.draw).dirichlet(np.ones(self.symbols), self.symbols**self.order)


@functools.lru_cache(maxsize=32)
def _tables(chain):
    P = chain._transitions()
    states, S = P.shape
    T = np.zeros((states, states))
    for s in range(states):
        for symbol in range(S):
            T[s, s * S % states + symbol] += P[s, symbol]
    system = np.vstack([T.T - np.eye(states), np.ones(states)])
    pi = np.linalg.lstsq(system, np.append(np.zeros(states), 1.0), rcond=None)[0]
    return P, np.maximum(pi, 0) / np.maximum(pi, 0).sum()
