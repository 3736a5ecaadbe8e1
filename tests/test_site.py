"""The pages: every link leads somewhere, on the site and where the repository is shown."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page):
    """The anchors of a page's headings, as they are made where the repository is shown."""
    found = Counter()
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        yield f"{slug}-{found[slug]}" if found[slug] else slug
        found[slug] += 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page):
    for link in LINK.findall(CODE.sub("", FENCE.sub("", page.read_text()))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def listed(entries):
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values():
                yield from listed([inner] if isinstance(inner, str) else inner)


def test_every_page_is_in_the_navigation_once():
    nav = list(listed(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    decisions = ROOT / "docs/decisions"
    pages = [page for page in PAGES if page.parent != decisions or page.name == "README.md"]
    assert sorted(nav) == sorted(page.relative_to(ROOT).as_posix() for page in pages)
    index = (decisions / "README.md").read_text()
    for page in sorted(decisions.glob("0*.md")):
        title = page.read_text().partition("\n")[0].removeprefix("# ")
        number, _, rest = title.partition(". ")
        assert f"\n{number}. [{rest}]({page.name})\n" in index
