"""The libraries of OpenVINO that the extension is built for: imported first, to say what is wrong where they differ."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

try:
    import ovengine._core  # noqa: F401  # whether it can be imported is the question
except ImportError as error:
    if "libopenvino" not in str(error):
        raise
    try:
        found = f"openvino {version('openvino')} is installed"
    except PackageNotFoundError:
        found = "the openvino package is not installed"
    try:
        wanted = next(line for line in requires("ovengine") or () if line.startswith("openvino=="))
    except (PackageNotFoundError, StopIteration):
        wanted = "openvino"
    raise ImportError(
        f"ovengine is built for the libraries of one OpenVINO release, and these are not here ({error}): {found}; "
        f"install the right one with: python -m pip install '{wanted}'"
    ) from error
