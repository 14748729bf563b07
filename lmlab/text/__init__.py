"""Bytes and tokenizers: what a model reads and writes, and how many source bytes each token covers.

A *recipe* is what an experiment writes (`ByteTokenizer()`, `BPE(vocab_size=1024)`, `Words()`, `TokenizerFile(path)`):
`recipe.train(documents)` and `recipe.load(path)` give the *tokenizer*, which has `vocab_size`, `bos`, `eos`, `encode`,
`encode_batch`, `decode`, `token_bytes`, `token_lengths`, `byte_spans`, `fingerprint` and `save`. Every tokenizer
round-trips every byte string.
"""

from lmlab.text.bpe import BPE, BPETokenizer, train_bpe
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.tokenizer_file import FileTokenizer, TokenizerFile
from lmlab.text.words import Words

__all__ = ["BPE", "BPETokenizer", "ByteTokenizer", "FileTokenizer", "TokenizerFile", "Words", "train_bpe"]
