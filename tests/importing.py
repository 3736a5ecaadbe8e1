"""Imports each of the files named on the command line; says what came of it, and what it cost.

A child process of the tests of hostile files: its memory is limited and measured here.
"""

import json
import resource
import sys
import time
from pathlib import Path

from click.testing import CliRunner

from cli import main

ROOM = 3 << 30  # bytes of addresses beyond those of the libraries


def peak() -> int:
    """Return the largest resident size since the last reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no VmHWM")


def outcome(path: str) -> dict[str, object]:
    """Import a file and remember everything."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = peak(), time.perf_counter()
    name = f"from-{Path(path).name}"
    result = CliRunner().invoke(main, ["import", path, "--name", name])
    return {
        "code": result.exit_code,
        "output": result.output,
        "raised": None if isinstance(result.exception, SystemExit) else repr(result.exception),
        "seconds": time.perf_counter() - start,
        "bytes": peak() - before,
    }


if __name__ == "__main__":
    import torch  # noqa: F401  # what takes long is not measured

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    outcome("warm-up")
    print(json.dumps({path: outcome(path) for path in sys.argv[1:]}))
