"""Dynamic token pooling's chunkers (Nawrot et al. 2023, arXiv 2211.09761, section 3), and MAGNET's (2407.08818).

A chunk starts at a boundary and, as everywhere, at the first position of a document. `probability_BL` is the
predictor's there too: what an objective compares with the boundaries that it wants.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from lmlab.errors import UserError
from lmlab.kernels.dispatch import shift_right
from lmlab.kernels.elementwise import linear
from lmlab.models.chunkers import AtTokens, Routing, segment_starts
from lmlab.models.layers import normal, parameter
from lmlab.models.positions import offsets


def relaxed_bernoulli(logits, uniform, temperature):
    """A sample in (0, 1) that leans to where sigmoid(logits) does (Maddison et al. 2017); over 1/2 with that chance."""
    noise = jnp.log(uniform) - jnp.log1p(-uniform)
    return nn.sigmoid((logits + noise) / temperature)


def binomial_nats(k, n, p):
    """-log P(k successes of n) under Binomial(n, p), for any real k in [0, n]."""
    choices = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return -(choices + k * jnp.log(p) + (n - k) * jnp.log1p(-p))


def uniform_of(tokens, offset):
    """A number in (0, 1) that looks drawn, from a token and its offset in its segment: float32, of their shape."""
    x = offset.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + tokens.astype(jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # the finalizer of MurmurHash3
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return ((x >> 9).astype(jnp.float32) + 0.5) / (1 << 23)


class Separators(AtTokens):
    """A boundary at every white-space byte. `positions_per_chunk`: only what FLOPs are counted with."""

    positions_per_chunk: float = 6.0
    separators: tuple[int, ...] = (9, 10, 13, 32)

    def at(self, tokens):
        """Where a segment ends."""
        return jnp.any(tokens[..., None] == jnp.array(self.separators), axis=-1)


class BoundaryPredictor(nn.Module):
    """p_t = sigmoid(w . gelu(W h_t + b) + c); a boundary where p_t > 1/2. An objective says what p should be.

    It reads the first `d_model` channels. `positions_per_chunk`: only what FLOPs are counted with.
    """

    d_model: int
    d_ff: int
    positions_per_chunk: float = 5.0

    @property
    def rates(self):
        """Probability that each predictor starts from; here one, of a boundary at about every other position, as without
        any there is nothing for the inner network to learn from."""
        return (0.5,)

    def setup(self):
        S, D, F, zeros = len(self.rates), self.d_model, self.d_ff, nn.initializers.zeros
        rates = np.array(self.rates, np.float32)
        self.wi = parameter(self, "wi", normal(D**-0.5), (D, S * F), ("embed", "inner"))
        self.bi = parameter(self, "bi", zeros, (S * F,), ("inner",))
        self.wo = parameter(self, "wo", normal(F**-0.5), (S, F), (None, "inner"))
        self.bo = parameter(self, "bo", lambda *_: jnp.asarray(np.log(rates / (1 - rates))), (S,), (None,))

    def logits(self, h):
        """[..., D] -> [..., predictors] float32."""
        x = nn.gelu(linear(h[..., : self.d_model].astype(self.wi.dtype), self.wi) + self.bi, approximate=False)
        x = x.reshape(*x.shape[:-1], *self.wo.shape).astype(jnp.float32)
        return jnp.sum(x * self.wo.astype(jnp.float32), axis=-1) + self.bo.astype(jnp.float32)

    def chosen(self, h_BLD, tokens_BL, segment_ids_BL):
        """Logits of the predictor in charge, [B, L]."""
        return self.logits(h_BLD)[..., 0]

    def draw(self, logits, tokens, offset):
        """What the threshold is applied to."""
        return nn.sigmoid(logits)

    def auxiliary(self, start_BL, p_BL, tokens_BL, segment_ids_BL):
        """The chunker's own loss."""
        return jnp.zeros(())

    def __call__(self, h_BLD, tokens_BL, segment_ids_BL):
        """Routing of packed rows."""
        valid_BL, first_BL = segment_ids_BL > 0, segment_starts(segment_ids_BL)
        logits_BL = self.chosen(h_BLD, tokens_BL, segment_ids_BL)
        p_BL = jnp.where(valid_BL, self.draw(logits_BL, tokens_BL, offsets(first_BL)), 0.0)
        start_BL = p_BL > 0.5
        auxiliary = self.auxiliary(start_BL, p_BL, tokens_BL, segment_ids_BL)
        return Routing(start_BL | first_BL, p_BL, auxiliary)

    @nn.nowrap
    def init_cache(self, batch):
        """Positions seen so far."""
        return jnp.zeros(batch, jnp.int32)

    def cache_after(self, h_BLD, tokens_BL, valid_BL):
        """Cache behind right-padded prompts."""
        return jnp.sum(valid_BL, axis=1, dtype=jnp.int32)

    def step(self, h_BD, tokens_B, cache):
        """(start_B, probability_B, cache)."""
        p_B = self.draw(self.logits(h_BD)[..., 0], tokens_B, cache)
        return (p_B > 0.5) | (cache == 0), p_B, cache + 1

    @nn.nowrap
    def flops(self):
        """Of every predictor: all are computed."""
        return len(self.rates) * (2 * self.d_model * self.d_ff + 10 * self.d_ff)


class GumbelBoundaries(BoundaryPredictor):
    """Boundaries that are drawn, p_t relaxed at `temperature`, and learn from the model's loss through a pool that passes
    their gradient on; a binomial prior of mean `prior` keeps their number.

    In training an objective gives the key "noise". Without one they are drawn too, as in the released code, but by numbers
    that follow from the byte and its offset (`uniform_of`): a threshold on p_t itself would leave out every boundary of a
    predictor that is sure of none, and so give the inner network what it never saw. So a row has one value, whoever
    computes it, and writing byte by byte draws what reading drew; cut into windows elsewhere, a text is drawn anew. The
    prior counts a row's positions without the first of each document.
    """

    prior: float = 0.2
    temperature: float = 0.5

    def __post_init__(self):
        if not all(0 < rate < 1 for rate in self.rates):
            raise UserError(f"A prior of boundaries lies between 0 and 1, not {' and '.join(map(str, self.rates))}.")
        super().__post_init__()

    @property
    def rates(self):
        """The prior."""
        return (self.prior,)

    def draw(self, logits, tokens, offset):
        """A relaxed sample."""
        if self.has_rng("noise"):
            tiny = jnp.finfo(jnp.float32).eps
            uniform = jax.random.uniform(self.make_rng("noise"), logits.shape, minval=tiny, maxval=1 - tiny)
        else:
            uniform = uniform_of(tokens, offset)
        return relaxed_bernoulli(logits, uniform, self.temperature)

    def auxiliary(self, start_BL, p_BL, tokens_BL, segment_ids_BL):
        """-log Binomial(boundaries; positions, prior) / positions, the mean over rows."""
        counted_BL = (segment_ids_BL > 0) & ~segment_starts(segment_ids_BL)
        return self._prior(start_BL, p_BL, counted_BL, jnp.sum(counted_BL, axis=1), self.prior)

    @staticmethod
    def _prior(start_BL, p_BL, counted_BL, length_B, prior):
        hard_BL = start_BL + p_BL - jax.lax.stop_gradient(p_BL)
        k_B, n_B = jnp.sum(jnp.where(counted_BL, hard_BL, 0.0), axis=1), jnp.sum(counted_BL, axis=1)
        nats_B = jnp.where(n_B > 0, binomial_nats(jnp.clip(k_B, 0, n_B), n_B, prior) / jnp.maximum(length_B, 1), 0.0)
        return jnp.sum(nats_B) / jnp.maximum(jnp.sum(length_B > 0), 1)


SCRIPTS = ("latin", "cyrillic", "devanagari")


def script_of(byte, before):
    """The script that a byte tells, index of SCRIPTS, or -1: ASCII letters and lead bytes; `before`: the byte before it.

    Devanagari stands for the scripts of its type, U+0900-U+0D7F: E0 A4 to E0 B5, from Devanagari and Bengali to Telugu and
    Malayalam. Cyrillic is U+0400-U+052F: D0 to D4; Latin letters beyond ASCII: C3 to C9.
    """
    letter = ((byte >= ord("A")) & (byte <= ord("Z"))) | ((byte >= ord("a")) & (byte <= ord("z")))
    latin = letter | ((byte >= 0xC3) & (byte <= 0xC9))
    cyrillic = (byte >= 0xD0) & (byte <= 0xD4)
    devanagari = (before == 0xE0) & (byte >= 0xA4) & (byte <= 0xB5)
    return jnp.where(latin, 0, jnp.where(cyrillic, 1, jnp.where(devanagari, 2, -1)))


def running_script(tokens_BL, segment_ids_BL):
    """Index of SCRIPTS of the last letter up to each position, in its document; before any, 0: [B, L]."""
    told_BL = script_of(tokens_BL, shift_right(tokens_BL, 0))
    position_L = jnp.arange(tokens_BL.shape[1])
    resets_BL = (told_BL >= 0) | segment_starts(segment_ids_BL)
    last_BL = jax.lax.cummax(jnp.where(resets_BL, position_L, 0), axis=1)
    return jnp.maximum(jnp.take_along_axis(told_BL, last_BL, axis=1), 0)


class ScriptBoundaries(GumbelBoundaries):
    """MAGNET: a boundary predictor and a prior for each script, `priors` in the order of SCRIPTS.

    A position's script is that of the last letter up to it, in its document; before any, Latin. The paper's comes with the
    document, as a token in front of it.
    """

    priors: tuple[float, ...] = (0.2, 0.1, 0.08)  # of the released configuration

    def __post_init__(self):
        if len(self.priors) != len(SCRIPTS):
            raise UserError(f"There is a prior for each of {', '.join(SCRIPTS)}, not {len(self.priors)}.")
        super().__post_init__()

    @property
    def rates(self):
        """The priors."""
        return self.priors

    def chosen(self, h_BLD, tokens_BL, segment_ids_BL):
        """Logits of the predictor in charge, [B, L]."""
        script_BL1 = running_script(tokens_BL, segment_ids_BL)[..., None]
        return jnp.take_along_axis(self.logits(h_BLD), script_BL1, axis=-1)[..., 0]

    def auxiliary(self, start_BL, p_BL, tokens_BL, segment_ids_BL):
        """The binomial prior of every script over its positions, per position of the row."""
        counted_BL = (segment_ids_BL > 0) & ~segment_starts(segment_ids_BL)
        script_BL, length_B = running_script(tokens_BL, segment_ids_BL), jnp.sum(counted_BL, axis=1)
        return sum(
            self._prior(start_BL, p_BL, counted_BL & (script_BL == s), length_B, prior)
            for s, prior in enumerate(self.priors)
        )

    @nn.nowrap
    def init_cache(self, batch):
        """Positions seen so far, the last byte, and the script so far."""
        return {name: jnp.zeros(batch, jnp.int32) for name in ("count", "byte", "script")}

    def cache_after(self, h_BLD, tokens_BL, valid_BL):
        """Cache behind right-padded prompts."""
        last_B1 = jnp.maximum(jnp.sum(valid_BL, axis=1, keepdims=True) - 1, 0)
        scripts_BL = running_script(tokens_BL, valid_BL.astype(jnp.int32))
        at = lambda x_BL: jnp.take_along_axis(x_BL, last_B1, axis=1)[:, 0]  # noqa: E731
        count_B = super().cache_after(h_BLD, tokens_BL, valid_BL)
        return {"count": count_B, "byte": at(tokens_BL), "script": at(scripts_BL)}

    def step(self, h_BD, tokens_B, cache):
        """(start_B, probability_B, cache)."""
        told_B = script_of(tokens_B, cache["byte"])
        script_B = jnp.where(told_B >= 0, told_B, cache["script"])
        logits_B = jnp.take_along_axis(self.logits(h_BD), script_B[:, None], axis=-1)[:, 0]
        p_B = self.draw(logits_B, tokens_B, cache["count"])
        seen = {"count": cache["count"] + 1, "byte": tokens_B, "script": script_B}
        return (p_B > 0.5) | (cache["count"] == 0), p_B, seen
