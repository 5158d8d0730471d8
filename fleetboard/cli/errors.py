"""What ends a command with exit status 1 and one sentence.

CommandError
"""

from __future__ import annotations


class CommandError(Exception):
    """The command can't do what was asked; the message says which value is wrong and what was expected."""
