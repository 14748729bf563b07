import gzip
import json

import pytest

from lmlab.data.corpora import Files, StandardLibrary, split_of
from lmlab.errors import UserError


def contents(corpus):
    return [document.data for document in corpus.documents()]


def test_standard_library_is_text_of_python_and_nothing_of_this_machine():
    documents = list(StandardLibrary(2_000_000).documents())
    total = sum(len(d.data) for d in documents)
    assert 1_900_000 < total <= 2_000_000
    assert documents == list(StandardLibrary(2_000_000).documents())
    assert all(d.data and d.name.endswith((".py", ".txt", ".rst")) for d in documents)
    assert not [d for d in documents if "site-packages" in d.name or "_sysconfigdata" in d.name]
    # A small budget holds all three splits in about their shares, although the hash decides both.
    splits = [split_of(d.data, 0.2, 0.2) for d in documents]
    assert all(0.05 < splits.count(s) / len(splits) < 0.4 for s in ("validation", "test"))


def test_split_is_by_content_and_in_the_asked_shares():
    splits = [split_of(b"%d" % i, 0.1, 0.2) for i in range(5000)]
    assert splits == [split_of(b"%d" % i, 0.1, 0.2) for i in range(5000)]
    assert abs(splits.count("validation") / 5000 - 0.1) < 0.02 and abs(splits.count("test") / 5000 - 0.2) < 0.02
    assert {split_of(b"%d" % i, 0, 0) for i in range(500)} == {"train"}
    # A larger share moves no document from the held-out side to the trained one.
    assert all(split_of(b"%d" % i, 0.1, 0.3) == "test" for i, s in enumerate(splits) if s == "test")


def test_files_of_every_kind(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"raw \xff bytes\n")
    (tmp_path / "b.md.gz").write_bytes(gzip.compress(b"packed"))
    lines = [json.dumps({"text": t, "id": 1}) for t in ("één", "two\nlines \u2028", "half \ud800")]
    (tmp_path / "c.jsonl").write_text("\n".join([*lines, "", ""]))
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "zipped line"}\n'))
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden").write_bytes(b"hidden")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "copy.txt").write_bytes(b"packed")  # the content of b.md.gz once more
    assert contents(Files(str(tmp_path))) == [
        b"raw \xff bytes\n",
        b"packed",
        "één".encode(),
        "two\nlines \u2028".encode(),
        b"half \xed\xa0\x80",
        b"zipped line",
    ]
    assert contents(Files(str(tmp_path / "c.jsonl")))[0] == "één".encode()


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pyarrow.table({"text": ["één", "two"], "n": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert contents(Files(str(tmp_path / "a.parquet"))) == ["één".encode(), b"two"]
    pyarrow.parquet.write_table(pyarrow.table({"n": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="b.parquet"):
        contents(Files(str(tmp_path / "b.parquet")))


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", b'{"text": "fine"}\nnot json\n'),
        ("a.jsonl", b'{"no text": 1}\n'),
        ("a.jsonl", b'{"text": null}\n'),
        ("a.jsonl", b'"a string"\n'),
        ("a.txt.gz", b"not packed"),
        ("a.txt.gz", gzip.compress(b"cut short" * 100, mtime=0)[:-12]),
        ("a.parquet", b"not parquet"),
        ("a.jsonl.zst", b"(\xb5/\xfd"),
        ("A.TXT.BZ2", b"BZh9"),
        ("A.JSONL", b"not json"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"Cannot read .*{name}"):
        contents(Files(str(tmp_path)))


def test_fasta_is_bases_alone(tmp_path):
    (tmp_path / "a.fa").write_bytes(b">one first\nACGT\nacgn\n>two\r\nTTTT\r\n")
    (tmp_path / "b.fasta.gz").write_bytes(gzip.compress(b">three\nGG"))
    assert contents(Files(str(tmp_path))) == [b"ACGTACGN", b"TTTT", b"GG"]
    (tmp_path / "a.fa").write_bytes(b"ACGT\n")
    with pytest.raises(UserError, match="a.fa: ValueError: a FASTA file begins with >"):
        contents(Files(str(tmp_path)))


def test_cut_documents_lose_nothing_and_keep_lines_and_characters(tmp_path):
    lines, wide = b"".join(b"%03d line\n" % i for i in range(100)), "".join(f"{chr(0x4e00 + i)}\u00e9\U0001f600" for i in range(50)).encode()
    (tmp_path / "lines.txt").write_bytes(lines)
    (tmp_path / "wide.txt").write_bytes(wide)
    pieces = contents(Files(str(tmp_path), cut=50))
    assert b"".join(pieces) == lines + wide and max(map(len, pieces)) <= 50
    assert all(p.endswith(b"\n") for p in pieces[:20])
    [p.decode() for p in pieces]
    assert Files(str(tmp_path), cut=50).fingerprint() != Files(str(tmp_path)).fingerprint()
    with pytest.raises(UserError, match="corpus.cut is 3"):
        contents(Files(str(tmp_path), cut=3))


def test_folder_without_text_is_an_empty_corpus(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "sub").mkdir()
    assert contents(Files(str(tmp_path))) == []


def test_missing_path(tmp_path):
    with pytest.raises(UserError, match="There is no corpus at"):
        contents(Files(str(tmp_path / "missing")))


def test_fingerprint_follows_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    before = Files(str(path)).fingerprint()
    assert Files(str(path)).fingerprint() == before
    path.write_bytes(b"three")
    assert Files(str(path)).fingerprint() != before
    assert StandardLibrary().fingerprint() != StandardLibrary(10).fingerprint()
