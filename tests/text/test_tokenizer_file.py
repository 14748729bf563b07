"""Published files give the tokens that their own libraries give, and every byte back."""

import json
import struct

import numpy as np
import pytest

from lmlab.errors import UserError
from lmlab.text import TokenizerFile, train_bpe
from lmlab.text.merges import GPT2
from lmlab.text.tokenizer_file import FileTokenizer
from tests.paths import data
from tests.text.test_bpe import DOCUMENTS, HARD

TRAPS = [b" \xe2\x96\x81 \xe2\x96\x81\xe2\x96\x81x", b"<s> <unk> </s> <0x41> <|endoftext|> <|padding|>", b"   \n\n  a", b"\0a\0"]
FILES = [
    "gpt2",
    "llama2/tokenizer.model",
    "neox_rwkv/20B_tokenizer.json",
    "tiktoken/r50k_base.tiktoken",
    "tiktoken/cl100k_base.tiktoken",
    "../weights/stories260K/tok512.bin",
]


@pytest.fixture(scope="module")
def trained():
    return train_bpe(DOCUMENTS, 400)


@pytest.fixture(scope="module")
def as_gpt2(trained, tmp_path_factory):
    """What `train_bpe` learned, as GPT-2's two files."""
    folder = tmp_path_factory.mktemp("gpt2")
    model = json.loads(trained.definition)["model"]
    vocabulary = model["vocab"] | {"<|endoftext|>": len(model["vocab"])}
    (folder / "encoder.json").write_text(json.dumps(vocabulary))
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"]), ""]))
    return folder


def holds_the_contract(tokenizer):
    rng = np.random.default_rng(0)
    documents = HARD + TRAPS + DOCUMENTS[:2] + [rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in range(30)]
    lengths = tokenizer.token_lengths()
    assert len(lengths) == tokenizer.vocab_size and lengths[[tokenizer.bos, tokenizer.eos]].tolist() == [0, 0]
    for document, ids in zip(documents, tokenizer.encode_batch(documents), strict=True):
        assert tokenizer.decode(ids) == document
        assert lengths[ids].sum() == len(document) and (lengths[ids] > 0).all()
        assert all(document[a:b] == tokenizer.token_bytes(int(i)) for i, (a, b) in zip(ids, tokenizer.byte_spans(ids)))


def test_gpt2_files_give_what_the_trained_tokenizer_gives(trained, as_gpt2):
    tokenizer = TokenizerFile(str(as_gpt2)).read()
    holds_the_contract(tokenizer)
    assert tokenizer.vocab_size == 399 and tokenizer.bos == tokenizer.eos == 398
    for document in DOCUMENTS + HARD:
        assert np.array_equal(tokenizer.encode(document), trained.encode(document))
    assert TokenizerFile(str(as_gpt2 / "encoder.json")).read() == tokenizer


def test_a_saved_copy_is_the_tokenizer(as_gpt2, tmp_path):
    recipe = TokenizerFile(str(as_gpt2), 3.0)
    tokenizer = recipe.train([])
    tokenizer.save(tmp_path / "tokenizer.json")
    assert recipe.load(tmp_path / "tokenizer.json") == tokenizer
    assert recipe.fingerprint == tokenizer.fingerprint and recipe.vocab_size == 399
    assert TokenizerFile("gone.json").vocab_size == 0


@pytest.mark.parametrize("name", FILES)
def test_published_files_round_trip_every_byte(name):
    holds_the_contract(TokenizerFile(str(data("tokenizers") / name)).read())


def test_gpt2_and_r50k_are_one_tokenizer():
    a, b = (TokenizerFile(str(data("tokenizers") / name)).read() for name in ("gpt2", "tiktoken/r50k_base.tiktoken"))
    assert (a.vocab_size, a.eos) == (b.vocab_size, b.eos) == (50257, 50256)
    for document in DOCUMENTS + HARD + TRAPS:
        assert np.array_equal(a.encode(document), b.encode(document))


def test_llama2_gives_what_sentencepiece_gives():
    sentencepiece = pytest.importorskip("sentencepiece")
    path = str(data("tokenizers") / "llama2" / "tokenizer.model")
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=path), TokenizerFile(path).read()
    assert (ours.vocab_size, ours.bos, ours.eos) == (32000, theirs.bos_id(), theirs.eos_id())
    for document in [d for d in DOCUMENTS + HARD if d and _is_text(d)]:
        assert ours.encode(b" " + document).tolist() == theirs.encode(document.decode())


def _is_text(document):
    return document.decode("utf-8", "ignore").encode() == document


def test_neox_gives_what_the_library_gives():
    import tokenizers

    path = str(data("tokenizers") / "neox_rwkv" / "20B_tokenizer.json")
    theirs, ours = tokenizers.Tokenizer.from_file(path), TokenizerFile(path).read()
    assert ours.own_size == 50277 and ours.vocab_size == 50277 + 13  # C0, C1 and F5 to FF
    for document in DOCUMENTS:
        text = document.decode()
        if theirs.normalizer.normalize_str(text) == text:
            assert ours.encode(document).tolist() == theirs.encode(text).ids


def test_llama2c_files_hold_sentencepieces(tmp_path):
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % b for b in range(256))]
    scored = [(p, 0.0) for p in pieces] + [(b" a", -1.0), (b"ab", -2.0)] + [(b"%c" % c, -9.0) for c in b" abc"]
    body = b"".join(struct.pack("<fi", score, len(piece)) + piece for piece, score in scored)
    path = tmp_path / "tok.bin"
    path.write_bytes(struct.pack("<i", 6) + body)
    tokenizer = TokenizerFile(str(path)).read()
    holds_the_contract(tokenizer)
    assert [tokenizer.token_bytes(int(i)) for i in tokenizer.encode(b" abcab z")] == [
        b" a", b"b", b"c", b"ab", b" ", b"z"
    ]  # fmt: skip
    assert (tokenizer.bos, tokenizer.eos) == (1, 2)


REMOVED = {"type": "Split", "pattern": {"String": "~~"}, "behavior": "Removed", "invert": False}
TRIMMED = {"id": 900, "content": "abc", "special": False, "single_word": False, "lstrip": True, "rstrip": False,
           "normalized": True}  # fmt: skip


@pytest.mark.parametrize("change, reason", [
    (lambda d: d["model"].update(dropout=0.1), "draws its encodings by chance"),
    (lambda d: d["model"].update(continuing_subword_prefix="##"), "carry marks that are not text"),
    (lambda d: d.update(normalizer={"type": "Replace", "pattern": {"String": "``"}, "content": '"'}), "normalizer Replace"),
    (lambda d: d.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [REMOVED, d["pre_tokenizer"]]}), "Split drops"),
    (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace drops"),
    (lambda d: d.update(added_tokens=[TRIMMED]), "depends on what stands around it"),
    (lambda d: d.update(added_tokens=[TRIMMED | {"id": d["model"]["vocab"]["the"], "content": "the", "special": True}]),
     "text is encoded to its special token 'the'"),
])  # fmt: skip
def test_refuses_parts_that_lose_bytes_of_some_text(change, reason, trained, tmp_path):
    definition = json.loads(trained.definition)
    change(definition)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition))
    with pytest.raises(UserError, match=f"does not round-trip bytes: .*{reason}"):
        FileTokenizer.load(path)


def test_reads_what_an_inverted_split_leaves_whole(trained, tmp_path):
    """As conversions of tiktoken's files write it: what the pattern matches is kept, and it matches everything."""
    definition = json.loads(trained.definition)
    split = {"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Removed", "invert": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition))
    holds_the_contract(FileTokenizer.load(path))
    split["pattern"] = {"Regex": "[a-z]+"}
    path.write_text(json.dumps(definition))
    with pytest.raises(UserError, match="does not give back what it encoded"):
        FileTokenizer.load(path)


def test_refuses_what_loses_bytes(trained, as_gpt2, tmp_path):
    path = tmp_path / "tokenizer.json"
    definition = json.loads(trained.definition)
    path.write_text(json.dumps(definition | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(UserError, match="does not round-trip bytes: its normalizer Lowercase changes text"):
        FileTokenizer.load(path)
    path.write_text(json.dumps(definition | {"pre_tokenizer": None}))
    with pytest.raises(UserError, match="does not round-trip bytes: it does not give back"):
        FileTokenizer.load(path)
    del definition["model"]["vocab"]["Ā"]  # the byte 0
    path.write_text(json.dumps(definition))
    with pytest.raises(UserError, match="does not round-trip bytes: it has no token"):
        FileTokenizer.load(path)
    for content in ("{}", "[]", "{", '{"model": {}}'):
        path.write_text(content)
        with pytest.raises(UserError, match="bare vocabulary|not a readable tokenizer"):
            FileTokenizer.load(path)
    with pytest.raises(UserError, match="no tokenizer at"):
        TokenizerFile(str(tmp_path / "missing.json")).read()
    (tmp_path / "odd.tiktoken").write_text("IQ== 0\n")
    with pytest.raises(UserError, match="has 1 ranks"):
        FileTokenizer.load(tmp_path / "odd.tiktoken")
    (tmp_path / "tokenizer.txt").write_text("a")
    with pytest.raises(UserError, match="no known tokenizer format"):
        FileTokenizer.load(tmp_path / "tokenizer.txt")


def test_refuses_sentencepiece_without_byte_fallback():
    pytest.importorskip("sentencepiece")
    with pytest.raises(UserError, match="no byte fallback"):
        FileTokenizer.load(data("tokenizers") / "spm_tests" / "test_model.model")
