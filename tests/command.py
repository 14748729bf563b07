"""The command line, as a user sees it."""

from lmlab.cli import main


def run(capsys, *argv):
    """(exit code, stdout, stderr)."""
    code = 0
    try:
        main(list(argv))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err
