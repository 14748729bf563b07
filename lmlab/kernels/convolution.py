"""Causal depthwise convolution of small width, with resets at document starts.

A state [B, K, C] holds the last K inputs, oldest first; zeros at the start of a text. The oldest has left the
window by the next position, and is kept because the original implementation keeps it.
"""

import jax.numpy as jnp


def _with_state(conv, x_BLC, w_KC, bias_C, segment_ids_BL, state_BKC):
    """`conv` over the state's inputs and then x; the state belongs to the document of the first position."""
    past = w_KC.shape[0] - 1
    x_BLC = jnp.concatenate([state_BKC[:, 1:].astype(x_BLC.dtype), x_BLC], axis=1)
    if segment_ids_BL is not None:
        segment_ids_BL = jnp.pad(segment_ids_BL, ((0, 0), (past, 0)), mode="edge")
    return conv(x_BLC, w_KC, bias_C, segment_ids_BL)[:, past:]


def causal_conv_reference(x_BLC, w_KC, bias_C, segment_ids_BL=None, state_BKC=None):
    """y_t = bias + sum_k w_k x_{t-K+1+k}, over taps in t's segment only; obvious and slow."""
    if state_BKC is not None:
        return _with_state(causal_conv_reference, x_BLC, w_KC, bias_C, segment_ids_BL, state_BKC)
    K, L = w_KC.shape[0], x_BLC.shape[1]
    rows = []
    for t in range(L):
        y = jnp.broadcast_to(bias_C, x_BLC[:, 0].shape)
        for k in range(K):
            s = t - K + 1 + k
            if s >= 0:
                tap = w_KC[k] * x_BLC[:, s]
                if segment_ids_BL is not None:
                    tap = jnp.where((segment_ids_BL[:, s] == segment_ids_BL[:, t])[:, None], tap, 0)
                y = y + tap
        rows.append(y)
    return jnp.stack(rows, axis=1)


def _shift(x, n):
    return jnp.pad(x[:, :-n], ((0, 0), (n, 0)) + ((0, 0),) * (x.ndim - 2))


def causal_conv(x_BLC, w_KC, bias_C, segment_ids_BL=None, state_BKC=None):
    """`causal_conv_reference` as K shifted multiply-adds, which XLA fuses into one pass."""
    if state_BKC is not None:
        return _with_state(causal_conv, x_BLC, w_KC, bias_C, segment_ids_BL, state_BKC)
    K = w_KC.shape[0]
    y_BLC = x_BLC * w_KC[K - 1] + bias_C
    for back in range(1, min(K, x_BLC.shape[1])):
        tap_BLC = _shift(x_BLC, back)
        if segment_ids_BL is not None:
            tap_BLC = jnp.where((_shift(segment_ids_BL, back) == segment_ids_BL)[..., None], tap_BLC, 0)
        y_BLC = y_BLC + tap_BLC * w_KC[K - 1 - back]
    return y_BLC


def causal_conv_step(state_BKC, x_BC, w_KC, bias_C):
    """One position: (y_BC, state_BKC)."""
    state_BKC = jnp.concatenate([state_BKC[:, 1:], x_BC[:, None].astype(state_BKC.dtype)], axis=1)
    return jnp.sum(state_BKC * w_KC, axis=1) + bias_C, state_BKC


def causal_conv_state(state_BKC, x_BLC, length_B):
    """The state behind the first `length` positions of each row, from the state before them."""
    inputs_BLC = jnp.concatenate([state_BKC, x_BLC.astype(state_BKC.dtype)], axis=1)
    last_BK = length_B[:, None] + jnp.arange(state_BKC.shape[1])
    return jnp.take_along_axis(inputs_BLC, last_BK[..., None], axis=1)
