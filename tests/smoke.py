"""The shortest proof that an installed ovengine works: needs nothing but its own dependencies."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import numpy as np
import openvino as ov

import models
import ovengine


def main() -> None:
    """Compare every way in with plain OpenVINO. Raises AssertionError."""
    network = models.mlp(*models.TINY_MLP)
    rows = np.random.default_rng(0).standard_normal((500, 16), np.float32)
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    expected = np.array(ov.Core().compile_model(network, "CPU", precision)(rows)[0])

    def check(got: object) -> None:
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-4, atol=1e-5)

    with ovengine.load(network, config=precision) as model:
        check(model.infer_rows(rows)["y"])
        check([model(row)["y"] for row in rows])
        futures = [model.submit(row) for row in rows]
        check([future.result()["y"] for future in futures])

        async def gather() -> list[object]:
            results = await asyncio.gather(*(model.ainfer(row) for row in rows))
            return [result["y"] for result in results]

        check(asyncio.run(gather()))
    subprocess.run([sys.executable, "-m", "ovengine", "plugins"], check=True, stdout=subprocess.DEVNULL)
    print(f"    ovengine on Python {sys.version.split()[0]}, OpenVINO {ov.get_version().split('-')[0]}: same answers")


if __name__ == "__main__":
    main()
