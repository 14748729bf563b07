"""AdamW with decay groups and per-stage learning rates, and the schedules."""

import dataclasses

import jax
import optax

from lmlab.errors import UserError


@dataclasses.dataclass(frozen=True)
class WSD:
    """Warm-up, stable, decay: linear up, flat, then 1 - sqrt of the progress (Haegele et al. 2024)."""

    warmup: float = 0.1  # share of all steps
    decay: float = 0.2

    def __call__(self, steps):
        """Step -> factor of the peak learning rate."""
        warmup, decay = max(1, round(self.warmup * steps)), max(1, round(self.decay * steps))

        def factor(step):
            rise = jax.numpy.minimum(1.0, (step + 1) / warmup)
            progress = jax.numpy.clip((step - (steps - decay)) / decay, 0.0, 1.0)
            return rise * (1 - jax.numpy.sqrt(progress))

        return factor


@dataclasses.dataclass(frozen=True)
class Linear:
    """Linear up to the peak, then linear down to 0."""

    warmup: float = 0.0  # share of all steps

    def __call__(self, steps):
        """Step -> factor of the peak learning rate."""
        warmup = max(1, round(self.warmup * steps))

        def factor(step):
            return jax.numpy.minimum((step + 1) / warmup, (steps - step) / max(1, steps - warmup + 1))

        return factor


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to `floor` of the peak."""

    warmup: float = 0.1  # share of all steps
    floor: float = 0.1

    def __call__(self, steps):
        """Step -> factor of the peak learning rate."""
        warmup = max(1, round(self.warmup * steps))

        def factor(step):
            progress = jax.numpy.clip((step - warmup) / max(1, steps - warmup), 0.0, 1.0)
            cosine = self.floor + (1 - self.floor) * (1 + jax.numpy.cos(jax.numpy.pi * progress)) / 2
            return jax.numpy.where(step < warmup, (step + 1) / warmup, cosine)

        return factor


def path_names(path):
    """Keys of a parameter's path, without the leading "params"."""
    names = [k.key for k in path]
    return names[1:] if names[0] == "params" else names


def stage_of(path):
    """Stage that a parameter belongs to: how many `inner` lie on its path. A widening vector enters the inner stage."""
    names = path_names(path)
    return names.count("inner") + (names[-1] == "widen")


def part_of(path):
    """Part of the model that a parameter belongs to: "embedding", "head", or "stage<s>/" and the part's name there."""
    names = path_names(path)
    if names[0] != "backbone":
        return names[0]
    name = next(n for n in names[1:] if n not in ("inner", "backbone"))
    return f"stage{stage_of(path)}/{'main' if name in ('norm', 'stack', 'table') or name.startswith('layers_') else name}"


def decays(path, parameter):
    """Weight decay of matrices only: a decayed norm, decay rate or time step drifts to a value that nobody chose. So
    would what is "frozen": it has no gradient."""
    return parameter.ndim >= 2 and path[0].key != "frozen"


def released_decays(path, parameter):
    """What the released H-Net code decays, probably unintended: everything but the biases of convolutions and residual
    projections and Mamba-2's inner norm; so also the other norms, A_log, D, dt_bias and widening vectors."""
    return path_names(path)[-1] not in ("bias", "conv_bias", "norm") and path[0].key != "frozen"


DECAYS = {"matrices": decays, "released": released_decays}


def hnet_multipliers(targets, widths, bytes_per_token=4.6):
    """Learning-rate multiplier of each stage (H-Net, arXiv 2507.07955, appendix C).

    lambda_s = sqrt(N_gpt * prod_{i>=s} N_i / prod_i N_i * D_S / D_s), with N_S = 1: the square-root rule for the
    number of positions a stage sees, times the one for its width. `targets`: N of each chunker, outside in;
    `widths`: D of each stage, one more.
    """
    total, result = 1.0, []
    for n in targets:
        total *= n
    seen = 1.0
    for s, width in enumerate(widths):
        remaining = total / seen
        result.append((bytes_per_token * remaining / total * widths[-1] / width) ** 0.5)
        if s < len(targets):
            seen *= targets[s]
    return tuple(result)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Clip by the global norm, Adam, decoupled decay, then learning rate x schedule x stage multiplier."""

    learning_rate: float
    schedule: WSD | Linear | Cosine = WSD()
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay: str = "matrices"  # what decays: "matrices", or "released" as H-Net's code has it
    clip: float = 1.0
    stage_multipliers: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        if self.decay not in DECAYS:
            raise UserError(f"Weight decay is of {' or '.join(DECAYS)}, not of {self.decay!r}.")
        if not self.learning_rate > 0 or not self.clip > 0 or self.weight_decay < 0:
            raise UserError("An optimizer needs learning_rate and clip above 0 and weight_decay of at least 0.")

    def build(self, steps):
        """An optax transformation for a run of `steps` steps."""
        factor = self.schedule(steps)

        def by_stage(updates):
            def scale(path, u):
                s = stage_of(path)
                if s >= len(self.stage_multipliers):
                    raise UserError(
                        f"The optimizer has {len(self.stage_multipliers)} stage multipliers but the model has a "
                        f"parameter in stage {s}: give one per stage."
                    )
                return u * self.stage_multipliers[s]

            return jax.tree_util.tree_map_with_path(scale, updates)

        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(
                self.weight_decay, mask=lambda params: jax.tree_util.tree_map_with_path(DECAYS[self.decay], params)
            ),
            optax.stateless(lambda updates, params: by_stage(updates)),
            optax.scale_by_learning_rate(lambda step: self.learning_rate * factor(step)),
        )

    def learning_rate_at(self, step, steps):
        """Learning rate of stages whose multiplier is 1."""
        return float(self.learning_rate * self.schedule(steps)(step))
