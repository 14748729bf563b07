"""Mixed precision in one place: which parameters a forward pass sees in which dtype."""

import jax
import jax.numpy as jnp

from lmlab.errors import UserError

# H-Net keeps D and the residual around the inner network in float32, and its code means to keep A_log and dt_bias (the
# released files have those two cast); norms are small, and exact here; a threshold is compared with, where bfloat16 has
# steps of a percent.
FLOAT32 = {"A_log", "D", "dt_bias", "residual", "scale", "norm", "threshold"}


def compute_copy(params, precision):
    """`params` as the forward pass sees them. Gradients flow back to the float32 originals."""
    if precision == "float32":
        return params
    if precision != "bfloat16":
        raise UserError(f"Precision {precision!r} is neither float32 nor bfloat16.")

    def cast(path, p):
        keep = any(k.key in FLOAT32 for k in path)
        return p if keep else p.astype(jnp.bfloat16)

    return jax.tree_util.tree_map_with_path(cast, params)
