"""The exceptions that the command line turns into one sentence and an exit code."""


class UserError(Exception):
    """Bad input. The message is one clear sentence; the command line prints it and exits with code 2."""

    exit_code = 2


class Interrupted(UserError):
    """What was asked for is right, but the machine failed: a full disk, a process that did not come. The command line
    prints the sentence and exits with 74 (EX_IOERR): the same command may succeed later."""

    exit_code = 74


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and has saved itself. The command line prints the message and exits with `exit_code`,
    which means "try again later" to those who start programs (EX_TEMPFAIL)."""

    exit_code = 75


class Diverged(UserError):
    """A training that a loss spike halted."""
