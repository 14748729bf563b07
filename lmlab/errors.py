"""The exceptions that the command line turns into one sentence and an exit code."""


class UserError(Exception):
    """Bad input. The message is one clear sentence; the command line prints it and exits with code 2."""


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and has saved itself. The command line prints the message and exits with `exit_code`,
    which means "try again later" to those who start programs (EX_TEMPFAIL)."""

    exit_code = 75
