"""The one exception that speaks to a user: a mistake in a configuration, a raw file or the environment."""


class UserError(Exception):
    """A mistake the user can cure. The message is one line: the place, what is wrong there, and what to do.

    Command line and workflow scripts print the message alone, without a traceback; every other exception is a
    defect of this project and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
