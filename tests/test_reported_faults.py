"""Faults that users of such projects report: for each, its smallest input and the right value.

One test stands for one report. Tests of the same kind of fault elsewhere are beside the tests of the module concerned;
``tests/test_transforms.py`` holds what transforms and flags of JAX must not change.
"""

import pytest

# Together they start dozens of processes.
pytestmark = pytest.mark.slow


# ---- Nothing changes a training silently -----------------------------------------------------------------------------


# ---- Scripts, interpreters and streams -------------------------------------------------------------------------------


# ---- Paths -----------------------------------------------------------------------------------------------------------


# ---- Modules in other people's projects ------------------------------------------------------------------------------


# ---- Operations under transforms, flags and meshes -------------------------------------------------------------------


# ---- Converted checkpoints -------------------------------------------------------------------------------------------


# ---- Files under several hands ---------------------------------------------------------------------------------------


# ---- Pictures and weights of others ----------------------------------------------------------------------------------
