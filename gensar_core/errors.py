"""Define the one exception meant for users: a mistake in a configuration, a raw file or the environment."""


class UserError(Exception):
    """Report a mistake that the user can fix. The message is one line: where it is, what is wrong, and what to do.

    The command line and the workflow scripts print the message alone, without a traceback. Any other exception is a bug
    in this project and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DivergedError(UserError):
    """Report a training whose loss is no longer a number; a search of settings goes on without it."""
