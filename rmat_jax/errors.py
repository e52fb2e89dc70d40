"""The one kind of error that a user can mend.

May import: nothing.
"""


class UserError(ValueError):
    """Bad input. The message is one line: the value, the rule, what to do.

    Commands print it and exit with code 2.
    """
