"""Gated recurrent units (Cho et al. 2014), with the reset gate behind the product, as in cuDNN and PyTorch."""

import jax
import jax.numpy as jnp


def gru(x_NBLGH, w_NHGH, bias_NH, start_NBL):
    """N recurrences side by side: [N, B, L, 3, H] -> states [N, B, L, H] float32. `x`: what the inputs give to reset
    gate, update gate and candidate, biases added. Before the first position and where `start` holds, h = 0.

    r = sigmoid(x_r + h W_r),    z = sigmoid(x_z + h W_z),    n = tanh(x_n + r (h W_n + bias)),
    h' = (1 - z) n + z h.
    """
    w_NHGH, bias_NH = w_NHGH.astype(jnp.float32), bias_NH.astype(jnp.float32)

    def step(h_NBH, x_start):
        x_NBGH, start_NB = x_start
        h_NBH = jnp.where(start_NB[..., None], 0.0, h_NBH)
        h_NBGH = jnp.einsum("nbh,nhgk->nbgk", h_NBH, w_NHGH)
        r_NBH, z_NBH = (jax.nn.sigmoid(x_NBGH[:, :, g] + h_NBGH[:, :, g]) for g in (0, 1))
        n_NBH = jnp.tanh(x_NBGH[:, :, 2] + r_NBH * (h_NBGH[:, :, 2] + bias_NH[:, None]))
        h_NBH = (1 - z_NBH) * n_NBH + z_NBH * h_NBH
        return h_NBH, h_NBH

    N, B, _, _, H = x_NBLGH.shape
    along = jnp.moveaxis(x_NBLGH.astype(jnp.float32), 2, 0), jnp.moveaxis(start_NBL, 2, 0)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros((N, B, H)), along)[1], 0, 2)
