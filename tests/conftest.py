"""What every test needs, before PyTorch is imported."""

import os

# The tests' networks are tiny, and threads that wait for each other beside other work are slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")
