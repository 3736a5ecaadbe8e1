"""Everything this toolkit expects to go wrong, each kind with its exit code.

The command line prints an expected error as one line and exits with its code.  Anything else is
a defect of ours and stays a traceback.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class ZooError(Exception):
    """An expected failure; its message says the rule, the offending fact, the place, the remedy."""

    exit_code = 1


class UsageError(ZooError):
    """A request that cannot be carried out as it was made."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting that is unknown, of the wrong type, or out of range."""


class DataError(UsageError):
    """A data set that cannot be found, read, or learnt from."""


class NotFoundError(UsageError):
    """A reference that matches nothing in the registry."""


class MismatchError(UsageError):
    """Members that cannot be combined or compared: other shapes, other data, other task."""


class RunsFailedError(ZooError):
    """Some runs of the request failed or diverged; the others are finished and published."""

    exit_code = 3


class WorkersLostError(ZooError):
    """Workers died, or could not work, and runs are left; what they saved is there."""


class InterruptedRunsError(ZooError):
    """The user stopped the command; what was finished is published."""

    exit_code = 130


class IntegrityError(ZooError):
    """Stored bytes are not what was published."""

    exit_code = 4


class UnreachableError(ZooError):
    """A place that cannot be used now: no connection, locked, or its disk is full."""


class LostClaimError(ZooError):
    """A run that this process was working on is somebody else's now.

    Attributes:
        run_ids: those runs.
    """

    def __init__(self, message: str, run_ids: frozenset[str]) -> None:
        super().__init__(message)
        self.run_ids = run_ids


class UnsafeFileError(ZooError):
    """A file of weights that is damaged, claims what it does not hold, or holds code.

    So may an entry of a catalogue be.  Nothing of it was used.
    """

    exit_code = 4


class UntrustedError(ZooError):
    """Code that a config or the registry names, and that the user has not said to be trusted."""

    exit_code = 4


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or how it is written where it says nothing.

    >>> first_line(RuntimeError("no room\\nat all")), first_line(MemoryError())
    ('no room', 'MemoryError()')
    """
    return next(iter(str(error).strip().splitlines()), repr(error))


def listed(words: Sequence[str], most: int = 5) -> str:
    """List words for an error message, the first ones where there are many.

    >>> listed(["a", "b"]), listed(["a", "b", "c"], most=2)
    ('a, b', 'a, b, ...')
    """
    return ", ".join(words[:most]) + ", ..." * (len(words) > most)


def nearest(word: str, known: Iterable[str], told: str = "known") -> str:
    """Say which of the ``known`` words was probably meant, for the end of an error message.

    Args:
        word: that was given.
        known: the words there are.
        told: what these are called.

    >>> nearest("digts", ["digits", "iris"])
    "; did you mean 'digits'? (known: digits, iris)"
    >>> nearest("xyz", ["digits", "iris"])
    ' (known: digits, iris)'
    """
    words = sorted(known)
    match = get_close_matches(word, words, n=1, cutoff=0.6)
    hint = f"; did you mean {match[0]!r}?" if match else ""
    return f"{hint} ({told}: {', '.join(words)})"
