"""The one exception that a user's mistake ends in."""


class UserError(Exception):
    """Bad input. The message is one clear sentence; the command line prints it and exits with code 2."""
