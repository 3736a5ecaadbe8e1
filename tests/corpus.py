"""Makes malicious and damaged files of weights: ``python tests/corpus.py FOLDER``."""

import sys
from pathlib import Path

import corpus_headers
import corpus_pickles


def make(target: Path) -> None:
    """Write every file and folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name, write in corpus_pickles.FILES.items():
        write(target / name)
    corpus_headers.make(target)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
