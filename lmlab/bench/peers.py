"""The peer on a CPU: Hugging Face's Llama in PyTorch, of the same shape, trained and sampled the way its users do."""

import time

import numpy as np

from lmlab.errors import UserError


def import_torch():
    """(torch, transformers). Raises UserError if the `bench` extra is not installed."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"The comparison needs {error.name}: install it with pip install 'lmlab[bench]'.") from None
    return torch, transformers


class HFLlama:
    """A float32 Llama with AdamW (0.9, 0.95, decay 0.1) and clipping at global norm 1; eager, scaled-dot-product
    attention, PyTorch's own number of threads."""

    def __init__(self, vocab_size, d_model, n_layers, n_heads, d_ff, length, learning_rate=1e-3):
        self.torch, transformers = import_torch()
        transformers.logging.set_verbosity_error()
        self.torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=d_model,
            intermediate_size=d_ff,
            num_hidden_layers=n_layers,
            num_attention_heads=n_heads,
            num_key_value_heads=n_heads,
            max_position_embeddings=length,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        self.model = transformers.LlamaForCausalLM(config)
        self.optimizer = self.torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1
        )

    @property
    def parameters(self):
        """Number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    def step(self, tokens_BL):
        """One training step on int tokens [B, L], each the target of its predecessor: (loss, seconds)."""
        tokens = self.torch.from_numpy(np.asarray(tokens_BL, np.int64))
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item(), time.perf_counter() - start

    def generate(self, prompts_BL, new_tokens):
        """Greedy continuation with the key-value cache: (int tokens [B, new_tokens], seconds)."""
        prompts = self.torch.from_numpy(np.asarray(prompts_BL, np.int64))
        start = time.perf_counter()
        with self.torch.inference_mode():
            out = self.model.generate(
                prompts,
                attention_mask=self.torch.ones_like(prompts),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
            )
        return out[:, prompts.shape[1] :].numpy(), time.perf_counter() - start
