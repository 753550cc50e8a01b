"""Imports tensorboardX as if PyTorch were not installed.

It imports PyTorch where that is installed, which takes a second in each of the processes that tests start.
"""

import sys

_torch = sys.modules.get("torch")
sys.modules["torch"] = _torch  # None refuses the import
try:
    from tensorboardX.proto import event_pb2 as event_pb2
finally:
    if _torch is None:
        del sys.modules["torch"]
