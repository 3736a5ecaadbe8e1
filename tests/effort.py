"""How hard the randomised tests try: ``ZOO_LONG=1`` is the long mode."""

import os

LONG = os.environ.get("ZOO_LONG") == "1"
KILLS = 200 if LONG else 8  # of processes, at random moments
EXAMPLES = 300 if LONG else 6  # of random sequences of operations
