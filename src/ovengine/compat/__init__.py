"""Drop-in stand-ins for classes of OpenVINO: existing code changes one import.

Instead of `from openvino import AsyncInferQueue`:

    from ovengine.compat import AsyncInferQueue

`docs/coming-from.md` lists other names that are understood.
"""

from __future__ import annotations

from ovengine.compat.async_infer_queue import AsyncInferQueue
from ovengine.compat.infer_request import InferRequest

__all__ = ["AsyncInferQueue", "InferRequest"]
