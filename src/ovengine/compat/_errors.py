"""Errors of `ovengine.compat` that are also what OpenVINO's classes raise in the same place."""

from __future__ import annotations

from ovengine.errors import Cancelled, ConfigError, ModelError, OvengineError

__all__ = ["ArgumentTypeError", "NotAModelError", "RequestBusy", "RequestCancelled"]


class ArgumentTypeError(ConfigError, TypeError):
    """An argument of the queue that is of the wrong type or out of range."""


class NotAModelError(ModelError, TypeError):
    """The queue was given neither an `openvino.CompiledModel` nor an `ovengine.Model`."""


class RequestBusy(OvengineError, RuntimeError):
    """The infer request runs an inference; its tensors and its state are there when that is done."""


class RequestCancelled(Cancelled, RuntimeError):
    """The inference was cancelled by `InferRequest.cancel`."""
