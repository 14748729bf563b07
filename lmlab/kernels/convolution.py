"""Causal depthwise convolution of small width, with resets at document starts."""

import jax.numpy as jnp


def _shift(x, n):
    return x if n == 0 else jnp.pad(x[:, :-n], ((0, 0), (n, 0)) + ((0, 0),) * (x.ndim - 2))


def causal_conv_reference(x_BLC, w_KC, bias_C, segment_ids_BL=None):
    """y_t = bias + sum_k w_k x_{t-K+1+k}, over taps in t's segment only; obvious and slow."""
    K, L = w_KC.shape[0], x_BLC.shape[1]
    rows = []
    for t in range(L):
        y = jnp.broadcast_to(bias_C, x_BLC[:, 0].shape)
        for k in range(K):
            s = t - K + 1 + k
            if s >= 0:
                same = 1.0 if segment_ids_BL is None else (segment_ids_BL[:, s] == segment_ids_BL[:, t])[:, None]
                y = y + w_KC[k] * x_BLC[:, s] * same
        rows.append(y)
    return jnp.stack(rows, axis=1)


def causal_conv(x_BLC, w_KC, bias_C, segment_ids_BL=None):
    """`causal_conv_reference` as K shifted multiply-adds: [B, L, C] -> [B, L, C]."""
    K = w_KC.shape[0]
    y_BLC = x_BLC * w_KC[K - 1] + bias_C
    for back in range(1, min(K, x_BLC.shape[1])):
        tap_BLC = _shift(x_BLC, back)
        if segment_ids_BL is not None:
            tap_BLC = jnp.where((_shift(segment_ids_BL, back) == segment_ids_BL)[..., None], tap_BLC, 0)
        y_BLC = y_BLC + tap_BLC * w_KC[K - 1 - back]
    return y_BLC


def causal_conv_step(state_BKC, x_BC, w_KC, bias_C):
    """One position. `state_BKC` holds the last K inputs; returns (y_BC, state_BKC)."""
    state_BKC = jnp.concatenate([state_BKC[:, 1:], x_BC[:, None].astype(state_BKC.dtype)], axis=1)
    return jnp.sum(state_BKC * w_KC, axis=1) + bias_C, state_BKC
