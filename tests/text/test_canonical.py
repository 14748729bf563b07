"""Sequences are accepted exactly if they begin the encoding of some text."""

import itertools
import json

import numpy as np
import pytest
import tokenizers

from lmlab.errors import UserError
from lmlab.text import ByteTokenizer, TokenizerFile, Words, train_bpe
from lmlab.text.bpe import BPETokenizer
from lmlab.text.adjacency import Adjacency
from lmlab.text.canonical import canonical
from lmlab.text.cl100k import CL100K, GPT4, QWEN2
from lmlab.text.dictionary import DictionaryTokenizer
from lmlab.text.lib import LiBTokenizer
from lmlab.text.longest_match import LongestMatchTokenizer
from lmlab.text.pretokens import BEGINS
from lmlab.text.tokenizer_file import FileTokenizer
from lmlab.text.words import SpaceWords
from tests.paths import data

TRAINING = [
    b"it's we're don't 'tis the rest\n\n  of the text\n  was as was\n\n\n x = 'a' + 'er' !! 11 1  22\t\t1\n",
    "é è éé 　　 。字　　字 éa aé ' '' '\n".encode(),
] * 40
# Letters of contractions, white space of one byte and of three, characters cut in two and three, bytes of none.
ALPHABETS = [b"se' \n", b"'re!a", b" \na1\t", b"\xc3\xa9 a\xff", b"\xe3\x80\x82\x81 ", b"\xe5\xad\x97\xe3\x80 a", b"aa er'"]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TRAINING, 300)


def unsplit(tokenizer):
    """A tokenizer trained and used without a pre-tokenizer."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator([text.decode() for text in TRAINING], trainer)
    return BPETokenizer(library.to_str())


def like_cl100k(pattern):
    """A tokenizer trained behind cl100k's pre-tokenizer, or Qwen's."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    more = "'Re'LL'S 'SS 'ra're 'lsv! \tx\t!\n\n !!\n\n\r\n \n \n\n  \t x 1234 12 111 !a 'ſ 'ſa\n" * 20
    library.train_from_iterator([*[text.decode() for text in TRAINING], more], trainer)
    return BPETokenizer(library.to_str())


def prefixes_of_encodings(tokenizer, alphabet, length):
    """What begins the encodings of all byte strings over an alphabet: as tuples of ids; EOS where one ends."""
    strings = (bytes(s) for n in range(length + 1) for s in itertools.product(sorted(set(alphabet)), repeat=n))
    found = set()
    for ids in tokenizer.encode_batch(list(strings)):
        ids = (*ids.tolist(), tokenizer.eos)
        found.update(ids[:n] for n in range(len(ids) + 1))
    return found


def accepted(tokenizer, alphabet, length):
    """What `Canonical` accepts of at most `length` bytes over an alphabet."""
    automaton, alphabet = canonical(tokenizer), set(alphabet)
    inside = {t for t in range(tokenizer.vocab_size) if (b := tokenizer.token_bytes(t)) and set(b) <= alphabet}
    found, pending = set(), [((), 0, automaton.start)]
    while pending:
        ids, size, state = pending.pop()
        found.add(ids)
        for token in np.flatnonzero(automaton.allowed(state)).tolist():
            if token == tokenizer.eos:
                found.add((*ids, token))
            elif token in inside and size + len(tokenizer.token_bytes(token)) <= length:
                behind = automaton.behind(state, token)
                pending.append(((*ids, token), size + len(tokenizer.token_bytes(token)), behind))
    return found


def is_exact(tokenizer, alphabet, length=3, further=2):
    """Equality for what has at most `length` bytes, some text being at most so much longer."""
    lengths = tokenizer.token_lengths()
    true = prefixes_of_encodings(tokenizer, alphabet, length + further)
    true = {ids for ids in true if sum(lengths[list(ids)]) <= length}
    assert accepted(tokenizer, alphabet, length) == true


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_accepts_what_begins_an_encoding_and_nothing_else(bpe, alphabet):
    is_exact(bpe, alphabet)


@pytest.mark.parametrize("alphabet", ALPHABETS[3:])
def test_without_pre_tokenizer(bpe, alphabet):
    is_exact(unsplit(bpe), alphabet)


def with_runs(tokenizer, **longest):
    """`tokenizer` with added tokens of 2 to so many spaces or tabs, as NeoX has them."""
    content, flags = json.loads(tokenizer.definition), dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    runs = [{"space": " ", "tab": "\t"}[name] * n for name, most in longest.items() for n in range(2, most + 1)]
    first = len(content["model"]["vocab"])
    added = [{"id": first + i, "content": run, "normalized": True, **flags} for i, run in enumerate(runs)]
    return FileTokenizer(json.dumps(content | {"added_tokens": [*(content.get("added_tokens") or ()), *added]}))


@pytest.mark.parametrize("base", [train_bpe, unsplit, like_cl100k], ids=["gpt2", "unsplit", "cl100k"])
@pytest.mark.parametrize("alphabet", [b" a\n", b" \t!", b" '\xff", b" \xc3\xa9", b"se' \n"])
def test_with_runs_that_are_cut_out_first(base, alphabet, bpe):
    """Runs of two and three spaces, so that five of them are cut in two ways and six in one; or of two alone."""
    tokenizer = bpe if base is train_bpe else base(bpe) if base is unsplit else base(GPT4)
    is_exact(with_runs(tokenizer, space=3, tab=2), alphabet, length=5 if len(alphabet) == 3 else 3)
    is_exact(with_runs(tokenizer, space=2), alphabet)


@pytest.mark.parametrize("pattern", [GPT4, QWEN2], ids=["gpt4", "qwen2"])
@pytest.mark.parametrize(
    "alphabet",
    [
        *ALPHABETS[:4],
        # With U+3007, a number: behind it too a space stands alone.
        *[b"\xe3\x80\x82\x81\x87 ", b"\xe5\xad\x97\xe3\x80\x87 a"],
        *[b"!a\n \t", b"'sS!a", b"'rREl", b"1a !\n", b"\n\r \t1", b"'\xc5\xbfa \xff", b"11 a!"],
    ],
)
def test_with_the_pre_tokenizer_of_cl100k(pattern, alphabet):
    is_exact(like_cl100k(pattern), alphabet)


@pytest.mark.parametrize("alphabet", ["a!\n ", "'sra", "1a \n", "!\t\n'", " \u3000\ra", "'ſ! "])
@pytest.mark.parametrize("pattern", [GPT4, QWEN2], ids=["gpt4", "qwen2"])
def test_the_grammar_of_cl100k_cuts_where_the_library_does(pattern, alphabet):
    """Every text of six characters has one way through the grammar, that of the library."""
    grammar, library = CL100K(pattern), tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    for text in map("".join, itertools.product(alphabet, repeat=6)):
        ways = [(BEGINS, ())]
        for at, character in enumerate(text, 1):
            ways = [(mode, cuts) for before, cuts in ways for mode in grammar.read(before, character)]
            ways += [(end, (*cuts, at)) for mode, cuts in ways for end in grammar.ended(mode)]
        ways = {cuts for mode, cuts in ways if grammar.last(mode)}
        assert ways == {tuple(end for _, (_, end) in library.pre_tokenize_str(text))}, repr(text)


@pytest.mark.parametrize("alphabet", [b" ae\n", b"\xc3\xa9 a\xff", b"\xe2\x96\x81 a", b"\xe5\xad\x97\xe3a"])
def test_pieces_with_byte_fallback(alphabet):
    is_exact(TokenizerFile(str(data("weights") / "stories260K" / "tok512.bin")).read(), alphabet)


def holds_for_text(tokenizer, documents):
    automaton = canonical(tokenizer)
    for document, ids in zip(documents, tokenizer.encode_batch(documents), strict=True):
        state = automaton.start
        for token in [*ids.tolist(), tokenizer.eos]:
            assert automaton.allowed(state)[token], (document, tokenizer.token_bytes(token))
            state = automaton.behind(state, token) if token != tokenizer.eos else None


def hard_documents(seed=0):
    rng = np.random.default_rng(seed)
    parts = [b"'", b"'s", b"'re", b"'R", b" ", b"  ", b"\n", b"\t", b"a", b"hello", b" world", b"12", b"!", b"\xff"]
    parts += [s.encode() for s in ("é", "漢字", "　", "🙂", "e\u0301", "²", "\x85", "\x1c", "𐍈", "\u2581")]
    parts += [b"\xe6\xbc", b"\xf0\x9f\x99", b"\x80", b"\xc3"]
    chosen = rng.integers(0, len(parts), (200, 12))
    return TRAINING[:2] + [b"".join(parts[i] for i in row) for row in chosen]


def indented(counts=(23, 24, 25, 26, 48, 49, 50, 73)):
    """Runs of spaces, shorter and longer than the longest of NeoX's."""
    return [start + b" " * n + end for n in counts for start in (b"", b"a", b"\n", b"\xff") for end in (b"", b"a", b"\n", b"'s")]


def test_accepts_every_encoding(bpe):
    holds_for_text(bpe, hard_documents()[:100])
    holds_for_text(unsplit(bpe), hard_documents()[:100])
    holds_for_text(like_cl100k(GPT4), hard_documents()[:60])
    holds_for_text(like_cl100k(QWEN2), hard_documents(1)[:60])
    holds_for_text(whole_first(bpe, range(0, 400, 3)), hard_documents(2)[:60])


PUBLISHED = ["gpt2", "llama2/tokenizer.model", "tiktoken/cl100k_base.tiktoken", "neox_rwkv/20B_tokenizer.json"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tokenizers(name):
    holds_for_text(TokenizerFile(str(data("tokenizers") / name)).read(), hard_documents()[:20] + indented()[::3])


@pytest.mark.parametrize("name", ["gpt2", "llama2/tokenizer.model"])
def test_merges_tell_which_tokens_may_meet(name):
    tokenizer = TokenizerFile(str(data("tokenizers") / name)).read()
    merges, content = Adjacency(tokenizer.definition, tokenizer.vocab_size), json.loads(tokenizer.definition)
    bare = {"added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None}
    library = tokenizers.Tokenizer.from_str(json.dumps(content | bare))
    names = {token: name for name, token in content["model"]["vocab"].items() if not name.startswith("<0x")}
    rng, crossed, ids = np.random.default_rng(0), 0, [t for t in names if merges.reachable[t]]
    assert len(names) - len(ids) <= 3  # special ones
    for left in rng.choice(ids, 20).tolist():
        rights = rng.choice(ids, 1000).tolist()
        encoded = library.encode_batch_fast([names[left] + names[right] for right in rights])
        together = [e.ids == [left, right] for e, right in zip(encoded, rights, strict=True)]
        assert np.array_equal(merges.follows(left)[rights], together)
        crossed += len(rights) - sum(together)
    assert crossed > 100


@pytest.mark.parametrize("alphabet", ["a", "ab", "abc"])
def test_merges_in_any_order_and_given_twice(alphabet):
    """A part may come behind what is made of it, and of a pair that stands in the list twice the last place counts."""
    rng = np.random.default_rng(len(alphabet))
    for i in range(200):
        vocab, merges = {name: i for i, name in enumerate(alphabet)}, []
        for _ in range(rng.integers(2, 12) if i % 2 else rng.integers(4, 21)):
            left, right = (list(vocab)[rng.integers(len(vocab))] for _ in "lr")
            if len(left + right) <= 8 and (left, right) not in merges:
                vocab.setdefault(left + right, len(vocab))
                merges.append((left, right))
        if i % 2:  # the others as they came, each part ahead of what is made of it, some tokens made in several ways
            merges = [merges[i] for i in rng.permutation(len(merges))] + merges[: rng.integers(2)]
        definition = {"model": {"type": "BPE", "vocab": vocab, "merges": merges}}
        found, library = Adjacency(json.dumps(definition), len(vocab)), tokenizers.models.BPE(vocab, merges)
        encoded = lambda text, library=library: [token.value for token in library.tokenize(text)]  # noqa: E731
        for left, i in vocab.items():
            assert found.reachable[i] == (encoded(left) == [left]), merges
            for right, j in vocab.items():
                if found.reachable[i] and found.reachable[j]:
                    assert found.follows(i)[j] == (encoded(left + right) == [left, right]), (left, right, merges)


def test_bytes_have_but_one_encoding():
    automaton = canonical(ByteTokenizer())
    assert automaton.allowed(automaton.start).sum() == 255 and not automaton.allowed(automaton.start)[254]


def whole_first(tokenizer, without=()):
    """`tokenizer` looking up whole words first, where it lacks every merge of these ranks."""
    content = json.loads(tokenizer.definition)
    merges = [merge for rank, merge in enumerate(content["model"]["merges"]) if rank not in without]
    return FileTokenizer(json.dumps(content | {"model": content["model"] | {"ignore_merges": True, "merges": merges}}))


def test_whole_words_first_changes_nothing_where_merges_make_all_words(bpe):
    is_exact(whole_first(bpe), b"se' \n")


@pytest.mark.parametrize("base", ["gpt2", "cl100k", "runs"])
@pytest.mark.parametrize("alphabet", [b"re' \n", b"\xc3\xa9 a\xff", b"was ", b"13 \n"])
def test_words_that_no_merges_make(base, alphabet, bpe):
    """Every third merge is lacking, and with it all that later ones make of it."""
    tokenizer = like_cl100k(GPT4) if base == "cl100k" else bpe
    lacking = whole_first(tokenizer, range(0, 400, 3))
    reachable = Adjacency(lacking.definition, lacking.vocab_size).reachable
    assert 10 < sum(not reachable[t] for t in json.loads(lacking.definition)["model"]["vocab"].values())
    is_exact(with_runs(lacking, space=3) if base == "runs" else lacking, alphabet, further=3 if len(alphabet) < 5 else 2)


def test_refuses_what_is_not_known(bpe):
    with pytest.raises(UserError, match="of a BPE, of longest matches and of bytes"):
        canonical(Words(SpaceWords(), 15).train([]))
    content = json.loads(bpe.definition)
    token = {"id": len(content["model"]["vocab"]), "content": " a", "special": False}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    split = {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False}
    for change, sentence in [
        ({"added_tokens": [token]}, "added tokens"),
        ({"added_tokens": [token | {"content": "  ", "lstrip": True}]}, "added tokens"),
        ({"added_tokens": [token | {"content": "   "}]}, "some length is missing"),
        ({"added_tokens": [token | {"content": "  "}, token | {"content": "   ", "normalized": True}]}, "added tokens"),
        ({"added_tokens": [token | {"content": "  "}, token | {"content": "a  a", "special": True}]}, "special token"),
        ({"pre_tokenizer": split}, "for GPT-2's and cl100k's"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]}}, "for GPT-2's and cl100k's"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}, "for GPT-2's and cl100k's"),
    ]:
        with pytest.raises(UserError, match=sentence):
            canonical(FileTokenizer(json.dumps(content | change)))


def of_longest(kind, tokens):
    """A tokenizer of each kind that takes the longest of `tokens`, bytes apart."""
    if kind == "greedy":
        return DictionaryTokenizer((*(bytes([b]) for b in sorted(set(b"".join(tokens)))), *tokens))
    if kind == "lib":
        return LiBTokenizer(tokens)
    lines = [f"{i + 1} {token!r} {len(token)}" for i, token in enumerate([*(bytes([b]) for b in range(256)), *tokens])]
    return LongestMatchTokenizer("\n".join(lines))


@pytest.mark.parametrize("kind", ["greedy", "lib", "list"])
def test_where_the_longest_token_is_taken(kind):
    """Every string of few letters is encoded, and nothing else is accepted: of vocabularies in which what a token begins is
    ended by one, two or more tokens further behind, and of drawn ones."""
    rng = np.random.default_rng(0)
    drawn = [{bytes(rng.choice([97, 98], rng.integers(2, 7)).tolist()) for _ in range(8)} for _ in range(12)]
    for tokens in ({b"ab", b"abcd"}, {b"aa", b"aaa"}, {b"ab", b"abababa", b"ba"}, {b"aabb", b"bb"}, *drawn):
        alphabet = set(b"".join(tokens))
        is_exact(of_longest(kind, tuple(sorted(tokens))), bytes(alphabet), 8 if len(alphabet) == 2 else 5, 0)


def test_of_two_ids_for_the_same_bytes_the_one_that_is_used():
    tokenizer = LiBTokenizer((b"ab", b"b", b"ab"))
    assert tokenizer.encode(b"abb").tolist() == [258, 257]
    is_exact(tokenizer, b"ab", 6, 0)


def test_sequences_of_a_published_list():
    """RWKV's 65,529 tokens: encoded text is accepted token by token; text encoded in two parts is not, where the parts meet
    within a token."""
    tokenizer = TokenizerFile(str(data("tokenizers/neox_rwkv/rwkv_vocab_v20230424.txt"))).read()
    automaton = canonical(tokenizer)

    def accepts(ids):
        state = automaton.start
        for token in ids.tolist():
            if not automaton.allowed(state)[token]:
                return False
            state = automaton.behind(state, token)
        return True

    text = "The quick brown fox, and 世界 in the morning;\n\n\tfor i in range(10):  é.".encode()
    whole = tokenizer.encode(text)
    assert accepts(whole) and tokenizer.eos == 0
    seams = set(tokenizer.byte_spans(whole)[:, 1].tolist())
    for at in range(1, len(text)):
        parts = np.concatenate([tokenizer.encode(text[:at]), tokenizer.encode(text[at:])])
        assert accepts(parts) == np.array_equal(parts, whole) and (at in seams or not accepts(parts))
