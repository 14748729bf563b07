"""The peer on a CPU: Hugging Face's Llama in PyTorch, of the same shape, used the way its users do.

It runs in a process of its own, `python -m lmlab.bench.peers`, with threads of its own.
Environment: LMLAB_BENCH_PYTHON names the Python that has torch and transformers; by default it is this one.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

from lmlab.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder-only SwiGLU transformer and the batch that it is trained on."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    batch_size: int  # rows
    length: int  # tokens per row


class HFLlama:
    """A float32 Llama with AdamW (0.9, 0.95, decay 0.1) and clipping at global norm 1; eager,
    scaled-dot-product attention, PyTorch's own number of threads."""

    def __init__(self, shape):
        import torch
        import transformers

        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_ff,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            num_key_value_heads=shape.n_heads,
            max_position_embeddings=shape.length,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        self.model = transformers.LlamaForCausalLM(config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1
        )
        self.torch, self.clip = torch, torch.nn.utils.clip_grad_norm_
        tokens = np.random.default_rng(0).integers(0, shape.vocab_size, (shape.batch_size, shape.length))
        self.tokens = torch.from_numpy(tokens)

    def step(self):
        """One training step, each token the target of its predecessor: (loss, seconds)."""
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(input_ids=self.tokens, labels=self.tokens, use_cache=False).loss
        loss.backward()
        self.clip(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item(), time.perf_counter() - start


    def generate(self, batch, prompt, new):
        """Sample `new` tokens behind `prompt` random ones in `batch` rows, with its cache: seconds."""
        tokens = np.random.default_rng(0).integers(97, 123, (batch, prompt))
        start = time.perf_counter()
        with self.torch.inference_mode():
            self.model.generate(
                self.torch.from_numpy(tokens), min_new_tokens=new, max_new_tokens=new, do_sample=True, top_k=0
            )
        return time.perf_counter() - start


def serve():
    """The peer's process: stdin gives the shape, then each line a method and its arguments; JSON both ways."""
    shape = Shape(**json.loads(sys.stdin.readline()))
    try:
        llama = HFLlama(shape)
    except ImportError as error:
        print(json.dumps({"missing": error.name}), flush=True)
        return
    print(json.dumps({"parameters": sum(p.numel() for p in llama.model.parameters())}), flush=True)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(llama, method)(*arguments)), flush=True)


class Peer:
    """The process that holds the peer; it idles between steps. Raises UserError where torch is missing."""

    def __init__(self, shape):
        self._process = subprocess.Popen(
            [os.environ.get("LMLAB_BENCH_PYTHON", sys.executable), "-m", "lmlab.bench.peers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=pathlib.Path(__file__).parents[2],
        )
        answer = self._ask(dataclasses.asdict(shape))
        if "missing" in answer:
            missing = answer["missing"]
            raise UserError(f"The comparison needs {missing}: install it with pip install 'lmlab[bench]'.")
        self.parameters = answer["parameters"]

    def _ask(self, message):
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError(f"The peer's process ended with status {self._process.wait()}.")
        return json.loads(answer)

    def step(self):
        """One training step: (loss, seconds)."""
        return self._ask(["step"])

    def generate(self, batch, prompt, new):
        """Cached generation: seconds."""
        return self._ask(["generate", batch, prompt, new])

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


if __name__ == "__main__":
    serve()
