"""lmlab: what should a language model read and write? See README.md."""

__version__ = "0.1.0"


def load(directory):
    """(model, params) of a run directory or a converted model: `model.apply(params, tokens).logits` is [B, L, V]."""
    from lmlab.runner import load_run

    _, model, params = load_run(directory)
    return model, params
