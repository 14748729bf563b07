"""Causal depthwise convolution of small width, with resets at document starts.

A state [B, K, C] holds the last K inputs, oldest first; zeros at the start of a text. The oldest has left the
window by the next position, and is kept because the original implementation keeps it.
"""

import jax
import jax.numpy as jnp


def _with_state(conv, x_BLC, w_KC, bias_C, segment_ids_BL, state_BKC):
    """`conv` over the state's inputs and then x; the state belongs to the document of the first position."""
    past = w_KC.shape[0] - 1
    x_BLC = jnp.concatenate([state_BKC[:, 1:].astype(x_BLC.dtype), x_BLC], axis=1)
    if segment_ids_BL is not None:
        segment_ids_BL = jnp.pad(segment_ids_BL, ((0, 0), (past, 0)), mode="edge")
    return conv(x_BLC, w_KC, bias_C, segment_ids_BL)[:, past:]


def causal_conv_reference(x_BLC, w_KC, bias_C, segment_ids_BL=None, state_BKC=None):
    """y_t = bias + sum_k w_k x_{t-K+1+k}, over taps in t's segment only, position by position; obvious and slow."""
    (B, L, C), K = x_BLC.shape, w_KC.shape[0]
    ids_BL = jnp.zeros((B, L), jnp.int32) if segment_ids_BL is None else segment_ids_BL
    inputs_BKC = jnp.zeros((B, K, C), x_BLC.dtype) if state_BKC is None else state_BKC.astype(x_BLC.dtype)

    def position(window, now):
        inputs_BKC, ids_BK = (jnp.concatenate([v[:, 1:], n[:, None]], axis=1) for v, n in zip(window, now, strict=True))
        taps_BKC = jnp.where((ids_BK == now[1][:, None])[..., None], inputs_BKC, 0)
        return (inputs_BKC, ids_BK), jnp.sum(w_KC * taps_BKC, axis=1) + bias_C

    window = (inputs_BKC, jnp.broadcast_to(ids_BL[:, :1], (B, K)))
    y_LBC = jax.lax.scan(position, window, (x_BLC.swapaxes(0, 1), ids_BL.swapaxes(0, 1)))[1]
    return y_LBC.swapaxes(0, 1)


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


def causal_conv_silu(x_BLC, w_KC, bias_C, segment_ids_BL=None, state_BKC=None):
    """silu of `causal_conv`, in the same pass."""
    return jax.nn.silu(causal_conv(x_BLC, w_KC, bias_C, segment_ids_BL, state_BKC))


def causal_conv_silu_reference(x_BLC, w_KC, bias_C, segment_ids_BL=None, state_BKC=None):
    """silu of `causal_conv_reference`."""
    return jax.nn.silu(causal_conv_reference(x_BLC, w_KC, bias_C, segment_ids_BL, state_BKC))


def earlier_positions(x_BLC, segment_ids_BL, most):
    """int32 [B, L]: how many of the `most` positions before each are of its own document, a run of equal ids."""
    B, L = x_BLC.shape[:2]
    if segment_ids_BL is None:
        return jnp.broadcast_to(jnp.minimum(jnp.arange(L), most), (B, L))
    same, count_BL = True, jnp.zeros((B, L), jnp.int32)
    for back in range(1, min(most + 1, L)):
        same &= (_shift(segment_ids_BL, back) == segment_ids_BL) & (jnp.arange(L) >= back)
        count_BL += same
    return count_BL


def causal_conv_step(state_BKC, x_BC, w_KC, bias_C):
    """One position: (y_BC, state_BKC)."""
    state_BKC = jnp.concatenate([state_BKC[:, 1:], x_BC[:, None].astype(state_BKC.dtype)], axis=1)
    return jnp.sum(state_BKC * w_KC, axis=1) + bias_C, state_BKC


def causal_conv_state(state_BKC, x_BLC, length_B):
    """The state behind the first `length` positions of each row, from the state before them."""
    inputs_BLC = jnp.concatenate([state_BKC, x_BLC.astype(state_BKC.dtype)], axis=1)
    last_BK = length_B[:, None] + jnp.arange(state_BKC.shape[1])
    return jnp.take_along_axis(inputs_BLC, last_BK[..., None], axis=1)
