"""Figures of the toy experiments, as files (matplotlib, which only these and the notebooks need)."""

from lmlab.errors import UserError


def _axes(width=6.0, height=4.0):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError('Figures need matplotlib: pip install "lmlab[colab]".') from error
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_transitions(path, texts, truth, naive, corrected, title):
    """P of a 1 behind each text, sorted by the truth: the chain's, the prompted tokens' and the corrected."""
    figure, axes = _axes(8.0)
    order = truth.argsort(kind="stable")
    places = range(len(texts))
    axes.step(places, truth[order], where="mid", color="0.6", label="Chain")
    axes.plot(places, naive[order], "x", color="tab:red", label="Tokens, as prompted")
    axes.plot(places, corrected[order], ".", color="tab:blue", label="Corrected")
    axes.set_xticks(list(places) if len(texts) <= 64 else [])
    axes.set_xticklabels([texts[i].decode() for i in order] if len(texts) <= 64 else [], rotation=90, fontsize=6)
    axes.set(xlabel="Text before", ylabel="Probability that a 1 follows", title=title, ylim=(-0.03, 1.03))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def draw_losses(path, curves, lines, title):
    """Loss against training steps. `curves`: {label: (steps, values)}; `lines`: {label: value}, drawn across."""
    figure, axes = _axes()
    for label, (steps, values) in curves.items():
        axes.plot(steps, values, label=label)
    for label, value in lines.items():
        axes.axhline(value, color="0.5", linestyle="--", linewidth=1)
        axes.text(axes.get_xlim()[1], value, f" {label}", va="center", fontsize=8)
    axes.set(xlabel="Training steps", ylabel="Nats per character", title=title)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
