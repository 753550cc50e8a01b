"""Every test runs on the CPU, whatever else the machine has; caches stay inside the test session."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
