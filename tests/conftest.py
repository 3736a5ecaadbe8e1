"""What every test needs, before PyTorch is imported."""

import os

# Idle threads of PyTorch must not spin: beside other work they would slow the tests tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
