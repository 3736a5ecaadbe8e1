"""Members that wait for a slot in a stack."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from zoo.reports import Member


def nobody(count: int) -> list[Member]:
    """Claim nobody: there are no others."""
    return []


class Supply:
    """Members that are ours and wait; where they do not suffice, more are claimed.

    Iterating names those that wait.
    """

    def __init__(
        self, members: Iterable[Member] = (), more: Callable[[int], list[Member]] = nobody
    ) -> None:
        """Begin with members that are ours; ``more`` claims up to so many of those that are not."""
        self.members = deque(members)
        self.more = more

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def take(self, count: int) -> list[Member]:
        """Return up to so many members, who wait no longer."""
        lacking = count - len(self.members)
        if lacking > 0:
            self.members.extend(self.more(lacking))
        return [self.members.popleft() for _ in range(min(count, len(self.members)))]
