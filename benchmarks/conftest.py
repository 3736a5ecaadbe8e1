"""Prints, below pytest-benchmark's own table, how the toolkit compares with its baselines."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tabulate import tabulate

HEADERS = ["case", "contender", "engine", "seconds", "against plain", "target"]


@dataclass
class Report:
    """The shortest seconds of every contender of a case, and what else its line says."""

    targets: dict[str, float] = field(default_factory=dict)
    engines: dict[tuple[str, str], str] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)

    def ratio(self, case: str, contender: str) -> float | None:
        """Return how many times faster than the plain loop a contender was in this session."""
        plain, own = self.seconds.get((case, "plain")), self.seconds.get((case, contender))
        return plain / own if plain and own else None

    def lines(self) -> Iterator[list[str]]:
        """Return the lines of the table."""
        for (case, contender), seconds in self.seconds.items():
            ratio = self.ratio(case, contender)
            yield [
                case,
                contender,
                self.engines.get((case, contender), ""),
                f"{seconds:.2f}",
                f"{ratio:.2f}x" if ratio else "",
                f">= {self.targets[case]:g}x" if contender == "auto" else "",
            ]


REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """What the summary will print."""
    return request.config.stash[REPORT]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = list(config.stash[REPORT].lines())
    if lines:
        terminalreporter.section("16 members against the plain PyTorch loop, best round each")
        terminalreporter.write_line(tabulate(lines, HEADERS, disable_numparse=True))
