"""`lmlab sample`, `lmlab inspect` and `lmlab audit`."""

from lmlab.commands.common import prepare
from lmlab.errors import UserError


def sample(args):
    """`lmlab sample DIR`."""
    from lmlab.runner import load_run, stream_text, tokenizer_of

    if args.bytes < 1 or args.temperature < 0 or not 0 < args.top_p <= 1:
        raise UserError("Sampling needs --bytes of at least 1, --temperature of at least 0 and --top-p in (0, 1].")
    prepare()
    run, model, params = load_run(args.directory)
    _reads_left_to_right(run, args.directory)
    tokenizer = tokenizer_of(run, model, args.directory)
    prompt = args.prompt.encode("utf-8", "surrogateescape")
    pieces = stream_text(model, params, tokenizer, prompt, args.bytes, args.temperature, args.top_p, args.seed)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _reads_left_to_right(run, directory):
    if run is not None and not run.corruption.continues:
        kind = type(run.corruption).__name__
        raise UserError(f"{directory} holds a model of {kind}, which can neither continue nor score a text by itself.")


def inspect(args):
    """`lmlab inspect DIR [FILE | --step N]`."""
    from rich.console import Console

    from lmlab.evaluation.passages import read_passage
    from lmlab.report.terminal import print_chunks, print_surprisal
    from lmlab.runner import load_data, load_run, look, tokenizer_of

    if args.step is not None:
        return _inspect_batch(args)
    text = None
    if args.file:
        try:
            with open(args.file, "rb") as f:
                text = f.read()
        except OSError as error:
            raise UserError(f"Cannot read {args.file}: {error.strerror}.") from error
        if not text:
            raise UserError(f"{args.file} is empty.")
    prepare()
    run, model, params = load_run(args.directory)
    _reads_left_to_right(run, args.directory)
    if text is not None:
        # A converted model has no rows of its own length: the text is one row, up to the length it was trained on.
        length, rows = (run.length, run.batch_size) if run else (min(8192, -(-(len(text) + 2) // 64) * 64), 1)
        passages = [read_passage(model, params, tokenizer_of(run, model, args.directory), text, length, rows)]
    elif run:
        passages = look(run, params, load_data(run))
    else:
        raise UserError(f"{args.directory} is a converted model without a test split: name a text file.")
    console = Console()
    for passage in passages:
        print_chunks(console, passage)
        print_surprisal(console, passage)


def _inspect_batch(args):
    """The documents in every row of a step's batch; no checkpoint is needed."""
    from rich.console import Console

    from lmlab.report.terminal import print_document
    from lmlab.runner import read_batch

    if args.file:
        raise UserError("--step shows a batch of the run: name no file beside it.")
    refused, rows = read_batch(args.directory, args.step)
    console = Console(highlight=False)
    for line in refused:
        console.print(f"refused: loss {line['loss']}, gradient norm {line['grad_norm']}; {line['action']}")
    for i, (window, documents) in enumerate(rows):
        console.print(f"row {i}: window {window} of the train split")
        for number, begins, ends, data in documents:
            where = ", ".join(["begins here"] * begins + ["ends here"] * ends) or "goes on before and after"
            print_document(console, f"document {number} ({where})", data)


def audit(args):
    """`lmlab audit DIR`."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from lmlab.evaluation.magikarp import flagged_count, repeated, suspects
    from lmlab.runner import load_run, tokenizer_of

    if not 0 < args.share < 1 or not 0 <= args.least <= 1 or args.top < 1:
        raise UserError("An audit needs a --share between 0 and 1, --least from 0 to 1 and --top of at least 1.")
    prepare()
    run, model, params = load_run(args.directory)
    _reads_left_to_right(run, args.directory)
    tokenizer = tokenizer_of(run, model, args.directory)
    ids, found, indicator = suspects(params, tokenizer, args.indicator)
    flagged = ids[: flagged_count(ids, args.share)]
    likely = repeated(model, params, tokenizer, flagged)
    values, name = found[indicator], indicator.replace("_", " ")
    print(
        f"{len(flagged):,} of {len(ids):,} candidates are flagged by their {name}; {int((likely < args.least).sum()):,} of these "
        f"stay below a probability of {args.least:g} behind prompts that repeat them."
    )
    table = Table("token", "id", name, "most likely, repeated", box=None)
    for token, p in zip(flagged[: args.top], likely, strict=False):
        shown = tokenizer.token_bytes(int(token)).decode("utf-8", "backslashreplace")
        table.add_row(repr(shown), str(token), f"{values[token]:.4g}", f"{p:.4f}")
    table.add_row("median of the candidates", "", f"{np.median(values[ids]):.4g}", "", style="dim")
    Console(highlight=False, markup=False).print(table)
