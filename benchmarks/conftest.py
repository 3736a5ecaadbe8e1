"""Prints, below pytest-benchmark's own table, how the toolkit compares with its baselines."""

from dataclasses import dataclass

import pytest
from tabulate import tabulate

HEADERS = ["case", "plain loop, s", "auto, s", "ratio", "target", "taken"]


@dataclass(frozen=True)
class Line:
    """The shortest seconds of the plain loop and of the toolkit."""

    case: str
    plain: float
    auto: float
    taken: str
    target: float

    @property
    def ratio(self) -> float:
        """How many times faster than the plain loop the toolkit was."""
        return self.plain / self.auto

    def cells(self) -> list[str]:
        """Return what stands in the table."""
        seconds = f"{self.plain:.2f}", f"{self.auto:.2f}"
        return [self.case, *seconds, f"{self.ratio:.2f}x", f">= {self.target:g}x", self.taken]


Report = list[Line]
REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = []


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """What the summary will print."""
    return request.config.stash[REPORT]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = [line.cells() for line in config.stash[REPORT]]
    if lines:
        terminalreporter.section("16 members against the plain PyTorch loop, best round each")
        terminalreporter.write_line(tabulate(lines, HEADERS, disable_numparse=True))
