"""Mixed precision in one place: which parameters a forward pass sees in which dtype."""

import jax
import jax.numpy as jnp

from lmlab.errors import UserError
from lmlab.kernels.elementwise import Weight

# H-Net keeps D and the residual around the inner network in float32, and its code means to keep A_log and dt_bias (the
# released files have those two cast). Norms, biases, the convolution and other vectors are small, and exact here; a
# threshold is compared with, where bfloat16 has steps of a percent.
FLOAT32 = {"A_log", "D", "dt_bias", "residual", "conv_kernel", "query", "bqkv", "br", "u", "v"}


def compute_copy(params, precision):
    """`params` as an evaluation sees them: copies in the dtype that products run in."""
    return _with_weights(params, precision, lambda p, dtype: p.astype(dtype))


def compute_weights(params, precision):
    """`params` as a training step sees them: cast in each product, so that gradients are float32 before anything is
    added up, over devices or over microbatches."""
    return _with_weights(params, precision, Weight)


def _with_weights(params, precision, weight):
    if precision == "float32":
        return params
    if precision != "bfloat16":
        raise UserError(f"Precision {precision!r} is neither float32 nor bfloat16.")

    def one(path, p):
        keep = p.ndim < 2 or any(k.key in FLOAT32 for k in path)
        return p if keep else weight(p, jnp.bfloat16)

    return jax.tree_util.tree_map_with_path(one, params)
