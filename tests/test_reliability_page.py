"""Every promise of the page on reliability is kept by tests that are there, as many as it says."""

import re
from pathlib import Path

import corpus_headers
import corpus_pickles
import pytest

from zoo.exchange import writing
from zoo.journal import PATIENCE_S, RETRY_S
from zoo.registry.claims import BEAT_S, LEASE_S
from zoo.registry.upkeep import GRACE_S

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text()
ROWS = re.findall(r"^\| (\d+) \|(.*)\|$", TEXT, re.MULTILINE)


def test_rows_are_numbered_without_a_gap():
    assert [int(number) for number, _ in ROWS] == [*range(1, len(ROWS) + 1)]


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[f"row {number}" for number, _ in ROWS])
def test_a_row_names_tests_that_are_there_and_what_they_fail_without(number, row):
    *_, tests, guard = re.split(r" \| ", row)
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    assert guard.strip()
    for file, test in named:
        path = ROOT / file if "/" in file else ROOT / "tests/zoo" / file
        assert f"\ndef {test}(" in path.read_text()


def test_durations_and_counts_are_those_of_the_code():
    assert (BEAT_S, LEASE_S, RETRY_S, PATIENCE_S, GRACE_S) == (10, 60, 5, 300, 3600)
    files = [*corpus_pickles.FILES, *corpus_headers.CONTENTS, *corpus_headers.FOLDERS]
    assert f"({len(files)} files)" in TEXT
    assert 'f".{secrets.token_hex(8)}.tmp"' in Path(writing.__file__).read_text()
