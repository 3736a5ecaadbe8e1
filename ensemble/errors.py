"""Everything the combining of models expects to go wrong, each kind with its exit code."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

LISTED = 10


class EnsembleError(Exception):
    """An expected failure: the message holds the rule, the offending fact, and the place."""

    exit_code = 2


class StateMismatchError(EnsembleError, ValueError):
    """Members that cannot be combined, because their keys, shapes or dtypes differ.

    ``differences`` holds every one of them; the message lists the first ten.
    """

    def __init__(self, rule: str, differences: Sequence[str]):
        super().__init__(f"{rule}, however: {listing(differences)}")
        self.differences = tuple(differences)


class NonFiniteError(EnsembleError, ValueError):
    """NaN or infinity where a finite number is needed."""


class EmptyError(EnsembleError, ValueError):
    """No members, or no data, where at least one is needed."""


class SymmetryError(EnsembleError, ValueError):
    """A module whose hidden units cannot be told apart from the order they have."""


class OptionError(EnsembleError, ValueError):
    """A method or option that is unknown, of the wrong type, or out of range."""


class DivergedError(EnsembleError):
    """Training that came to no finite weights."""

    exit_code = 3


def listing(facts: Sequence[str]) -> str:
    """Join facts into one line and count those beyond the tenth.

    >>> listing(["'a' is missing in #2", "'b' is only in #0"])
    "'a' is missing in #2; 'b' is only in #0"
    >>> listing([str(i) for i in range(13)])
    '0; 1; 2; 3; 4; 5; 6; 7; 8; 9; and 3 more'
    """
    more = [f"and {len(facts) - LISTED} more"] if len(facts) > LISTED else []
    return "; ".join([*facts[:LISTED], *more])


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which of the ``known`` words was probably meant, for the end of an error message.

    >>> nearest("unifrom", ["uniform", "weighted"])
    "; did you mean 'uniform'? (known: uniform, weighted)"
    >>> nearest("density", [])
    ' (known: none)'
    """
    words = sorted(known)
    match = get_close_matches(word, words, n=1)
    hint = f"; did you mean {match[0]!r}?" if match else ""
    return f"{hint} (known: {', '.join(words) or 'none'})"
