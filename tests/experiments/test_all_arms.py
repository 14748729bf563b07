"""Every registered arm: resolves to its golden text, is matched in FLOPs, and trains two steps at smoke scale, or
measures what its tables show.

After an intended change: UPDATE_GOLDEN=1 python -m pytest tests/experiments
"""

import dataclasses
import inspect
import os
import pathlib

import jax
import numpy as np
import pytest

from lmlab import config, experiment, runner
from lmlab.comparison import LOST
from lmlab.data.bake import bake
from lmlab.data.batches import TrainBatches
from lmlab.data.corpora import Files
from lmlab.errors import UserError
from lmlab.text.dictionary import Dictionary
from lmlab.training.sharding import batch_sharding, make_mesh, place
from lmlab.training.step import make_init, make_step
from tests.kinds import one_of_each, parts
from tests.training import tiny

UNMATCHED = {  # not matched in FLOPs per byte as they are counted here: mostly the papers' own layouts
    ("hnet_chinese", "hnet_2stage", "paper"),
    *(("hat", arm, "paper") for arm in ("hat_space", "hat_8_bytes")),
    *(("ebyte", arm, "paper") for arm in ("bpe_transformer", "ebyte")),
    ("byte2word", "byte2word", "paper"),
    *(("charbert", arm, "paper") for arm in ("charbert_clean", "charbert")),
    ("nextlevelbert", "short_chunks", "paper"),
    *(("hlm", arm, "paper") for arm in ("byte_encoder", "hlm")),
    *(("hnet_dna", arm, "paper") for arm in ("transformer", "hnet_transformer", "hnet_mamba2")),
    *(("byt5", arm, "paper") for arm in ("mt5", "mt5_same_gaps", "byt5_span3", "byt5_balanced")),
    ("token_pooling", "plain", "paper"),
    ("magnet", "magnet", "paper"),
    ("toucan", "toucan", "smoke"),
    *(("toucan", "toucan_10", scale) for scale in ("smoke", "small", "paper")),
    *(("charformer", arm, "paper") for arm in ("mean_pool", "gbst", "gbst_calibrated")),
    *(("manta", arm, "paper") for arm in ("stride", "manta")),
}
GOLDEN = pathlib.Path(__file__).parent / "golden"
SMOKE = [(n, a.name) for n in experiment.names() for a in experiment.load(n).at("smoke")]
STUDIES = [(n, a) for n, a in SMOKE if isinstance(experiment.load(n).resolve(a, "smoke"), experiment.Study)]


def trained():
    """What tells the steps of arms apart, and the arms."""
    for name, arm in SMOKE:
        if (name, arm) not in STUDIES:
            run = experiment.load(name).resolve(arm, "smoke")
            yield parts(run.model, run.objective, run.corruption, type(run.optimizer), type(run.tokenizer)), name, arm


RUNS = [
    (n, a.name, s) for n in experiment.names() for s in experiment.load(n).scales for a in experiment.load(n).at(s)
]


@pytest.mark.parametrize("name, arm, scale", RUNS)
def test_resolves_to_its_golden_text(name, arm, scale):
    text = config.to_text(experiment.load(name).resolve(arm, scale)) + "\n"
    path = GOLDEN / name / scale / f"{arm}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_evaluators_are_asked_about_the_run():
    """As the loop asks them; evaluators that no arm of these has are asked in tests of their own."""
    for name, arm, scale in RUNS:
        run = experiment.load(name).resolve(arm, scale)
        for evaluator in getattr(run, "evaluators", ()):
            if hasattr(evaluator, "check"):
                inspect.signature(evaluator.check).bind(run)


@pytest.mark.parametrize("name", sorted({n for n, _, s in RUNS if s == "paper"}))
def test_a_preemption_costs_few_steps(name):
    for arm in experiment.load(name).at("paper"):
        run = experiment.load(name).resolve(arm.name, "paper")
        while isinstance(run, experiment.Run):
            assert run.checkpoint_every <= LOST, arm.name
            run = run.after


@pytest.mark.parametrize("name, scale", sorted({(n, s) for n, _, s in RUNS}))
def test_arms_are_matched_in_flops_per_byte(name, scale):
    found = experiment.load(name)
    arms = [a for a in found.at(scale) if not a.size and not isinstance(a.run(scale), experiment.Study)]
    flops = {a.name: sum(found.resolve(a.name, scale).flops_per_byte().values()) for a in arms}
    for arm, value in flops.items():
        ratio = value / flops[found.anchor]
        if (name, arm, scale) == ("hnet", "llamabyte", "paper"):
            # The paper's own layout. It counts one window of scores for the whole sequence (W^2 / L per byte instead
            # of W keys per byte), which gives the 0.42 GFLOPs that it prints; counted per query it is 0.48.
            window, length, width, layers, heads = 1024, 8192, 1024, 16, 16
            per_key = (4 * width + 3 * heads) * layers
            value += per_key * (window**2 / length - window)
            assert round(value / 1e9, 2) == 0.42
            ratio = value / flops[found.anchor]
        elif (name, arm, scale) in UNMATCHED:
            assert "FLOPs per byte" in found.arm(arm).notes[scale]  # `show` says so
            continue
        assert abs(ratio - 1) < 0.05, f"{arm}: {ratio:.3f}"


def test_paper_scale_counts_what_the_paper_prints():
    """GFLOPs per byte and parameters of arXiv 2507.07955, Tables 1 and 2, within its rounding; SpaceByte's windows are
    counted there as LlamaByte's are."""
    found = experiment.load("hnet")
    from lmlab.models.language_model import count_parameters

    printed = {
        "bpe_transformer": (0.42, 760),
        "mambabyte": (0.42, 190),
        "hnet_pool": (0.42, 850),
        "hnet_space": (0.42, 850),
        "hnet_1stage": (0.43, 680),
        "hnet_2stage": (0.43, 870),
        "hnet_2stage_XL": (0.69, 1600),
    }
    for arm, (gflops, millions) in printed.items():
        run = found.resolve(arm, "paper")
        # Of two stages the paper gives the chunks' product only, which is off by more where the middle is wider.
        tolerance = 0.02 if arm == "hnet_2stage_XL" else 0.0101
        assert abs(sum(run.flops_per_byte().values()) / 1e9 - gflops) < tolerance
        assert abs(count_parameters(run.model) / 1e6 - millions) <= 0.03 * millions
    assert count_parameters(run.model) == 1_603_492_224  # of the released weights


def test_an_arm_of_one_scale_is_refused_at_another():
    with pytest.raises(UserError, match="hnet/hnet_2stage_XL has no scale 'small'; it has paper."):
        experiment.load("hnet").resolve("hnet_2stage_XL", "small")


@pytest.mark.parametrize("name", ["compoundpiece", "neural_tokenizer"])
def test_running_text_takes_the_place_of_text_but_not_of_words(name, tmp_path):
    """Also where the run before reads words, of the text that would no longer be read."""
    for arm in experiment.load(name).at("smoke"):
        if arm.name in ("subwords", "undistilled"):
            assert experiment.load(name).resolve(arm.name, "smoke", corpus=tmp_path).corpus == Files(str(tmp_path))
        else:
            with pytest.raises(UserError, match="(Compounds|Hyphenated|UniqueWords) are the words of a text;"):
                experiment.load(name).resolve(arm.name, "smoke", corpus=tmp_path)


@pytest.mark.parametrize("name, arm", STUDIES)
def test_a_study_measures_what_its_tables_show(name, arm, tmp_path):
    study, found = experiment.load(name).resolve(arm, "smoke"), experiment.load(name)
    firsts = {name: dataclasses.replace(run, steps=2) for name, (run, _) in study.precursors().items()}
    study = dataclasses.replace(study, **firsts)
    shown = {c.key for table in found.tables if arm in table.arms for c in table.measured}
    study.check()
    measured = runner.measured(study, tmp_path / "study")
    assert all(isinstance(v, float) and np.isfinite(v) for v in measured.values())
    assert shown & set(measured) and set(measured) <= shown | {"bytes"}
    assert measured == runner.measured(study.seeded(study.seed), tmp_path / "again")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Enough made-up text for the smoke vocabularies."""
    folder = tmp_path_factory.mktemp("corpus")
    made = tiny.corpus(folder)
    rng = np.random.default_rng(0)
    for i in range(60):
        words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(200)]
        (pathlib.Path(made.path) / f"random{i}.txt").write_text(" ".join(words))
    return made


@pytest.mark.parametrize("name, arm", one_of_each(trained()))
def test_two_steps_at_smoke_scale(name, arm, corpus, tmp_path):
    run = experiment.load(name).resolve(arm, "smoke")
    own = isinstance(run.tokenizer, Dictionary)  # reads the symbols of its own text alone
    run = dataclasses.replace(run, corpus=run.corpus if own else corpus, batch_size=4, length=64)
    baked = bake(run.corpus, run.tokenizer, str(tmp_path))
    windows = run.corruption.windows(baked.split("train"), run.length, baked.tokenizer)
    batches = TrainBatches(windows, run.batch_size, 0)
    mesh = make_mesh(run.mesh)
    optimizer = run.optimizer.build(run.steps)
    init, shardings = make_init(run, optimizer, mesh)
    step = make_step(run, optimizer, mesh, shardings)
    state = init(jax.random.key(0))
    before = jax.device_get(state.params)
    losses, nats = [], []
    for i in range(2):
        state, metrics = step(state, place(batches.batch(i), batch_sharding(mesh)))
        losses.append(float(metrics["loss"]))
        nats.append(float(metrics["nats"] / metrics["targets"]))
    chance = getattr(run.objective, "at_chance", lambda model: np.log(model.vocab_size))(run.model)
    assert np.isfinite(losses).all() and abs(nats[0] - chance) < max(1.0, 0.02 * chance)
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), state.params, before)
    reaches = getattr(run.objective, "reaches", lambda path: True)
    trained = lambda path: path[0].key != "frozen" and reaches(jax.tree_util.keystr(path))  # noqa: E731
    wrong = [path for path, m in jax.tree_util.tree_leaves_with_path(moved) if m != trained(path)]
    assert not wrong, f"no update reaches {wrong}, or one reaches what is frozen or has no gradient"
