"""`lmlab transfer`: a model with another tokenizer, that loads, samples and is transferred again."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import lmlab
from lmlab.cli import main
from lmlab.convert.transfer import tokenizer_at
from lmlab.models.build import hierarchy, transformer
from lmlab.models.gpt2 import gpt2
from lmlab.models.hypernetwork import Hypernetwork, Retokenized
from lmlab.models.language_model import LanguageModel, init
from lmlab.data.sampled_tokenizers import SampledTokenizers
from lmlab.models.transfer import fvt, omp
from lmlab.models.two_way import TwoWay
from lmlab.objectives.retokenized import FromHypernetwork, PredictRows
from lmlab.runner import load_run
from lmlab.text.bpe import BPE, train_bpe
from lmlab.text.bytes import ByteTokenizer
from lmlab.text.digits import DigitGroups
from lmlab.text.lib import LiB
from lmlab.text.multi_word import MultiWord
from lmlab.text.pairs import Beside
from lmlab.text.sampled import Sampler
from lmlab.training import checkpoints
from lmlab.training.loop import train
from lmlab.training.optimizers import AdamW
from tests.paths import data
from tests.training import tiny

TEXT = [b"the reader reads what the writer writes, and the writer writes what the reader reads " * 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer's file, and a model with its tokenizer: "small"; a donor with the other's: "donor"."""
    folder = tmp_path_factory.mktemp("models")
    for name, size, width, seed in (("small", 270, 16, 0), ("donor", 280, 32, 1)):
        tokenizer = train_bpe(TEXT, size)
        tokenizer.save(folder / f"{name}.json")
        model = LanguageModel(size, transformer(1, width, 32, n_heads=2))
        text = {"tokenizer.json": tokenizer.definition}
        checkpoints.save_model(str(folder / name), model, init(model, jax.random.key(seed)), text)
    return folder


def run(*argv):
    main(["transfer", *map(str, argv)])


@pytest.mark.parametrize("method", ["mean", "fvt", "focus", "omp"])
def test_from_one_tokenizer_file_to_another(method, folder, tmp_path, capsys):
    run(folder / "small", tmp_path / "out", "--tokenizer", folder / "donor.json", "--method", method)
    model, params = lmlab.load(str(tmp_path / "out"))
    before, old_params = lmlab.load(str(folder / "small"))
    assert model.vocab_size == 280 and model.backbone == before.backbone
    old, new = tokenizer_at(str(folder / "small")), tokenizer_at(str(tmp_path / "out"))
    assert new.encode(TEXT[0]).tolist() == train_bpe(TEXT, 280).encode(TEXT[0]).tolist()
    jax.tree.map(np.testing.assert_array_equal, params["params"]["backbone"], old_params["params"]["backbone"])
    if method == "fvt":
        made = fvt(np.asarray(old_params["params"]["embedding"]), old, new)
        np.testing.assert_array_equal(params["params"]["embedding"], made)
    # And back: what both have is as it was.
    run(tmp_path / "out", tmp_path / "back", "--tokenizer", folder / "small", "--method", method)
    again, back = lmlab.load(str(tmp_path / "back"))
    assert again == before
    tokens = train_bpe(TEXT, 270).encode(TEXT[0])[None, :20]
    np.testing.assert_array_equal(again.apply(back, tokens).logits, before.apply(old_params, tokens).logits)
    capsys.readouterr()


def test_a_donor_gives_its_tokenizer_and_its_space(folder, tmp_path, capsys):
    run(folder / "small", tmp_path / "out", "--method", "omp", "--donor", folder / "donor", "--k", 3)
    _, params = lmlab.load(str(tmp_path / "out"))
    _, old = lmlab.load(str(folder / "small"))
    _, donor = lmlab.load(str(folder / "donor"))
    tokenizers = train_bpe(TEXT, 270), train_bpe(TEXT, 280)
    for name in ("embedding", "head"):
        rows, donors, made = (np.asarray(p["params"][name]) for p in (old, donor, params))
        if name == "head":
            rows, donors, made = rows.T, donors.T, made.T
        np.testing.assert_allclose(made, omp(rows, *tokenizers, donors, k=3), atol=1e-6)
    capsys.readouterr()


def test_to_bytes_and_from_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    made = tiny.plain(tmp_path)
    made = dataclasses.replace(made, model=made.model.clone(vocab_size=290), tokenizer=BPE(290), steps=4)
    train(made, str(tmp_path / "run"))
    run(tmp_path / "run", tmp_path / "out", "--tokenizer", "bytes")
    model, params = lmlab.load(str(tmp_path / "out"))
    assert model.vocab_size == 256 and type(tokenizer_at(str(tmp_path / "out"))) is ByteTokenizer
    _, old = lmlab.load(str(tmp_path / "run"))
    letter = int(tokenizer_at(str(tmp_path / "run")).encode(b"q")[0])
    np.testing.assert_array_equal(params["params"]["embedding"][ord("q")], old["params"]["embedding"][letter])
    main(["sample", str(tmp_path / "out"), "--bytes", "8", "--prompt", "the"])
    assert "the" in capsys.readouterr().out


def test_to_gpt2s_published_tokenizer(folder, tmp_path, capsys):
    path = data("tokenizers/gpt2")
    model = LanguageModel(270, gpt2(1, 16, 2, 32), tied=True)
    text = {"tokenizer.json": train_bpe(TEXT, 270).definition}
    checkpoints.save_model(str(tmp_path / "model"), model, init(model, jax.random.key(0)), text)
    run(tmp_path / "model", tmp_path / "out", "--tokenizer", path)
    model, _ = lmlab.load(str(tmp_path / "out"))
    tokenizer = tokenizer_at(str(tmp_path / "out"))
    assert model.vocab_size == tokenizer.vocab_size == 50_257
    assert tokenizer.encode(b" the reader").tolist() == [262, 9173]
    main(["convert", "gpt2", str(tmp_path / "out"), str(tmp_path / "back.safetensors")])
    assert json.loads((tmp_path / "back.json").read_text())["vocab_size"] == 50_257
    capsys.readouterr()


def test_a_hypernetwork_is_trained_over_a_frozen_base_and_gives_it_any_tokenizer(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    base = LanguageModel(290, transformer(1, 16, 32, n_heads=2))
    plain = dataclasses.replace(tiny.plain(tmp_path, batch_size=2), model=base, tokenizer=BPE(290), steps=4)
    hypernetwork = dataclasses.replace(
        plain,
        model=Retokenized(290, base, Hypernetwork(TwoWay("T1", 16, 32, n_heads=2, rotary_dim=4), 4)),
        corruption=SampledTokenizers(Sampler(290), 2, 4, 8, 16),
        objective=PredictRows(teacher=plain, warm_up=2),
    )
    student = dataclasses.replace(
        plain,
        model=base.clone(vocab_size=300),
        tokenizer=Beside(BPE(300), BPE(290), 1.5),
        objective=FromHypernetwork(teacher=hypernetwork),
        optimizer=AdamW(1e-9),
    )
    train(student, str(tmp_path / "student"))
    of, before = str(tmp_path / "student-teacher"), str(tmp_path / "student-teacher-teacher")
    (_, _, trained), (_, _, known), (_, _, begun) = (load_run(x) for x in (of, before, str(tmp_path / "student")))
    jax.tree.map(np.testing.assert_array_equal, trained["frozen"]["model"], known["params"])  # by all its steps
    assert np.any(trained["params"]["hypernetwork"]["wo"])
    # The command makes the rows that the run began with.
    tokenizer_at(str(tmp_path / "student")).save(tmp_path / "new.json")
    run(before, tmp_path / "out", "--tokenizer", tmp_path / "new.json", "--hypernetwork", of)
    model, params = lmlab.load(str(tmp_path / "out"))
    assert model == student.model
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params["params"], begun["params"])
    capsys.readouterr()
    for argv, said in (
        ((tmp_path / "out", "--hypernetwork", of), "was trained for another model"),
        ((before, "--hypernetwork", before), "holds no hypernetwork"),
        ((before, "--hypernetwork", of, "--method", "fvt"), "name no other"),
        ((before, "--method", "hypernetwork"), "name no other"),
        ((before, "--hypernetwork", of, "--donor", before), "no donor"),
        ((before, "--hypernetwork", of, "--donor", before, "--method", "hypernetwork"), "no donor"),
        ((before, "--hypernetwork", of, "--from", folder / "donor.json"), "tokens of another tokenizer"),
    ):
        with pytest.raises(SystemExit) as error:
            run(argv[0], tmp_path / "none", "--tokenizer", "bytes", *argv[1:])
        assert error.value.code == 2 and said in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.parametrize("base", [BPE(280), ByteTokenizer()], ids=["bpe", "bytes"])
def test_multi_word_tokens_of_a_run_are_kept_and_read_back(base, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    recipe = MultiWord(base, 4)
    model = LanguageModel(recipe.vocab_size, transformer(1, 8, 16, n_heads=2))
    short = dict(steps=2, log_every=2, evaluate_every=2, checkpoint_every=2, evaluators=(), batch_size=2)
    train(dataclasses.replace(tiny.plain(tmp_path), model=model, tokenizer=recipe, **short), str(tmp_path / "run"))
    run(folder / "small", tmp_path / "out", "--tokenizer", tmp_path / "run")
    made, params = lmlab.load(str(tmp_path / "out"))
    own, kept = (tokenizer_at(str(tmp_path / name)) for name in ("run", "out"))
    assert kept.phrases == own.phrases and made.vocab_size == kept.vocab_size == recipe.vocab_size
    assert kept.encode(TEXT[0]).tolist() == own.encode(TEXT[0]).tolist()
    main(["sample", str(tmp_path / "out"), "--prompt", "the", "--bytes", "4"])
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}\nthe")


@pytest.mark.parametrize("units", [LiB(262).train(TEXT * 9), DigitGroups()], ids=["lib", "no file"])
def test_a_tokenizer_that_would_be_lost_is_refused(units, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "lmlab.convert.transfer.tokenizer_at", lambda path: units if path == "units" else tokenizer_at(path)
    )
    with pytest.raises(SystemExit) as error:
        run(folder / "small", tmp_path / "out", "--tokenizer", "units")
    said = capsys.readouterr().err
    assert error.value.code == 2 and f"{type(units).__name__} cannot be kept" in said and not (tmp_path / "out").exists()


def test_bad_input_ends_in_one_sentence_and_leaves_nothing(folder, tmp_path, capsys):
    def refused(*argv):
        with pytest.raises(SystemExit) as error:
            run(argv[0], tmp_path / "out", *argv[1:])
        said = capsys.readouterr().err
        assert error.value.code == 2 and said.count("\n") == 1 and not (tmp_path / "out").exists()
        return said

    assert "Name one new tokenizer" in refused(folder / "small")
    assert "There is no tokenizer at" in refused(folder / "small", "--tokenizer", tmp_path / "none")
    assert "is not a run directory" in refused(tmp_path, "--tokenizer", "bytes")
    assert "Only omp looks at a donor" in refused(folder / "small", "--donor", folder / "donor")
    wrong = refused(folder / "small", "--from", folder / "donor.json", "--tokenizer", "bytes")
    assert "has 278 ids but its model only 270" in wrong
    large = refused(folder / "small", "--tokenizer", folder / "donor.json", "--donor", folder / "small", "--method", "omp")
    assert "donor's tokenizer has 278 ids but its model only 270" in large
    hnet = LanguageModel(256, hierarchy(["m1", ["T1"], "m1"], (32, 64), (0, 64), n_heads=2, d_state=8))
    checkpoints.save_model(str(tmp_path / "hnet"), hnet, init(hnet, jax.random.key(0)))
    assert "reads chunks" in refused(tmp_path / "hnet", "--tokenizer", folder / "small.json")
