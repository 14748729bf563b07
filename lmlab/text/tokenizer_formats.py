"""Published tokenizer files as one definition: the JSON of the `tokenizers` library.

Read are `tokenizer.json`; GPT-2's `encoder.json` with `vocab.bpe` (or `vocab.json` with `merges.txt`); rank files of
tiktoken; SentencePiece's BPE models with byte fallback (Llama 2); and those as llama2.c writes them (`tok512.bin`).
"""

import base64
import json
import pathlib
import struct

from lmlab.errors import UserError
from lmlab.text.bpe import byte_alphabet
from lmlab.text.cl100k import GPT4
from lmlab.text.merges import GPT2

SPACE = "\u2581"  # SentencePiece's space
END_OF_TEXT = "<|endoftext|>"
PAIRS = {"encoder.json": "vocab.bpe", "vocab.json": "merges.txt"}  # which file of merges belongs to a vocabulary
IN_FOLDERS = ("tokenizer.json", "tokenizer.model", *PAIRS)  # what is looked for, first come

# A rank file names neither its pre-tokenizer nor its special tokens: both are known by the number of its ranks.
RANK_FILES = {50_256: (GPT2, 50_256), 50_280: (GPT2, 50_256), 100_256: (GPT4, 100_257)}


def read_definition(path):
    """The definition in a file, or in the folder that holds it.

    Raises:
        UserError: it cannot be read, or is in no format that is read here.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = [path / name for name in IN_FOLDERS if (path / name).exists()]
        if not found:
            raise UserError(f"{path} holds no tokenizer: none of {', '.join(IN_FOLDERS)}.")
        path = found[0]
    try:
        data = path.read_bytes()
        if path.suffix == ".json":
            content = json.loads(data)
            if isinstance(content.get("model"), dict):  # and not a token, "model", with its id
                return data.decode()
            return _gpt2(content, _merges_beside(path))
        if path.suffix == ".tiktoken":
            return _ranks(path, data)
        if path.suffix == ".bin":
            return _fallback(_llama2c(data))
        if path.suffix == ".model":
            return _sentencepiece(path)
    except OSError as error:
        raise UserError(f"Cannot read {error.filename or path}: {error.strerror}.") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{path} is not a readable tokenizer file ({type(error).__name__}: {error}).") from error
    raise UserError(f"{path} is in no known tokenizer format: .json, .model, .tiktoken, .bin or a list as RWKV's.")


def _merges_beside(path):
    if path.name not in PAIRS:
        raise UserError(f"{path} is a bare vocabulary; its merges are known only beside {' or '.join(PAIRS)}.")
    lines = (path.parent / PAIRS[path.name]).read_text(encoding="utf-8").split("\n")
    return [line.split(" ") for line in lines if line and not line.startswith("#version")]


def _special(name, token):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": name, "special": True, **flags}


def _byte_level(vocabulary, merges, specials, pattern=None):
    """`pattern`: of a pre-tokenizer other than GPT-2's."""
    options = {"add_prefix_space": False, "trim_offsets": True}
    pre_tokenizer = {"type": "ByteLevel", **options, "use_regex": pattern is None}
    if pattern is not None:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, pre_tokenizer]}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": specials,
            "normalizer": None,
            "pre_tokenizer": pre_tokenizer,
            "decoder": {"type": "ByteLevel", **options, "use_regex": True},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        }
    )


def _gpt2(vocabulary, merges):
    specials = [_special(END_OF_TEXT, vocabulary[END_OF_TEXT])] if END_OF_TEXT in vocabulary else []
    return _byte_level(vocabulary, merges, specials)


def _all_merges(ranks):
    """Every way to make a token from two, by the rank of what is made, then of its parts: how tiktoken and SentencePiece
    choose, who rank tokens and not merges."""
    for token in sorted(ranks, key=ranks.get):
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        cuts = [(a, b) for a, b in cuts if a in ranks and b in ranks]
        yield from sorted(cuts, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))


def _ranks(path, data):
    lines = [line.split() for line in data.splitlines() if line]
    if len(lines) not in RANK_FILES:
        known = ", ".join(f"{count:,}" for count in RANK_FILES)
        raise UserError(f"{path} has {len(lines):,} ranks; the pre-tokenizer is known for files of {known}.")
    pattern, end = RANK_FILES[len(lines)]
    characters = byte_alphabet()
    ranks = {"".join(characters[b] for b in base64.b64decode(token)): int(rank) for token, rank in lines}
    merges = [list(cut) for cut in _all_merges(ranks)]
    specials = [_special(END_OF_TEXT, end)]
    return _byte_level({**ranks, END_OF_TEXT: end}, merges, specials, None if pattern is GPT2 else pattern)


def _fallback(pieces):
    """Of (piece, score, is_plain) in the order of their ids. What is not plain, no text is encoded to."""
    vocabulary = {piece: token for token, (piece, _, _) in enumerate(pieces)}
    if any(f"<0x{byte:02X}>" not in vocabulary for byte in range(256)):
        raise UserError("This SentencePiece model has no byte fallback: it loses what its pieces do not spell.")
    plain = sorted((-score, token, piece) for token, (piece, score, is_plain) in enumerate(pieces) if is_plain)
    ranks = {piece: rank for rank, (_, _, piece) in enumerate(plain)}
    specials = [
        _special(piece, token)
        for token, (piece, _, is_plain) in enumerate(pieces)
        if not is_plain and not piece.startswith("<0x")
    ]
    model = {"type": "BPE", "unk_token": specials[0]["content"], "fuse_unk": True, "byte_fallback": True}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": specials,
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            "pre_tokenizer": None,
            "decoder": None,
            "model": model | {"vocab": vocabulary, "merges": [list(cut) for cut in _all_merges(ranks)]},
        }
    )


def _llama2c(data):
    """llama2.c's copy of a SentencePiece model: longest piece, then score, length and bytes of each."""
    at, pieces = 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        at += 8 + length
        pieces.append((data[at - length : at].decode().replace(" ", SPACE), score, len(pieces) >= 3 + 256))
    return [(name, 0.0, False) for name in ("<unk>", "<s>", "</s>")] + pieces[3:]


def _sentencepiece(path):
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(f"Reading {path} needs the sentencepiece package: pip install sentencepiece.") from error
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise UserError(f"{path} is not a readable SentencePiece model.") from error
    odd = (model.is_byte, model.is_control, model.is_unknown, model.is_unused)
    ids = range(model.get_piece_size())
    return _fallback([(model.id_to_piece(i), model.get_score(i), not any(is_odd(i) for is_odd in odd)) for i in ids])
