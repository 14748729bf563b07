import numpy as np

from lmlab.text import ByteTokenizer

EVERY_BYTE = bytes(range(256)) + "naïve 漢字".encode()


def test_round_trips_every_byte_and_counts_it_once():
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(EVERY_BYTE)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == EVERY_BYTE
    assert tokenizer.token_lengths()[ids].sum() == len(EVERY_BYTE)
    spans = tokenizer.byte_spans(ids)
    assert all(tokenizer.token_bytes(int(i)) == EVERY_BYTE[a:b] for i, (a, b) in zip(ids, spans, strict=True))


def test_special_ids_are_dropped_only_on_request_and_are_no_utf8():
    tokenizer = ByteTokenizer()
    ids = [tokenizer.bos, *b"ab", tokenizer.eos]
    assert tokenizer.decode(ids, skip_special=True) == b"ab"
    assert tokenizer.decode(ids) == b"\xfeab\xff"
    every_utf8_byte = {b for point in range(0x110000) if not 0xD800 <= point < 0xE000 for b in chr(point).encode()[:1]}
    assert not every_utf8_byte & {tokenizer.bos, tokenizer.eos}
