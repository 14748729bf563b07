"""From logits to a token."""

import jax
import jax.numpy as jnp


def sample(logits_BV, key, temperature, top_p):
    """One token per row: [B] int32. Nucleus sampling (Holtzman et al. 2020) after temperature; 0 is greedy.

    Keeps the smallest set of most likely tokens whose probability reaches `top_p`.
    """
    logits_BV = logits_BV.astype(jnp.float32)

    def drawn():
        scaled_BV = logits_BV / jnp.maximum(temperature, 1e-6)

        def nucleus():
            p_BV, token_BV = jax.lax.top_k(jax.nn.softmax(scaled_BV), scaled_BV.shape[-1])
            before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV  # probability of all likelier tokens
            kept_BV = jnp.where(before_BV < top_p, jnp.log(p_BV), -jnp.inf)
            return jnp.take_along_axis(token_BV, jax.random.categorical(key, kept_BV)[:, None], 1)[:, 0]

        return jax.lax.cond(top_p < 1.0, nucleus, lambda: jax.random.categorical(key, scaled_BV).astype(jnp.int32))

    return jax.lax.cond(temperature == 0.0, lambda: jnp.argmax(logits_BV, -1).astype(jnp.int32), drawn)
