"""Everything that ovengine raises, in one tree.

Each class is an `OvengineError` and also the built-in exception that a Python user would catch
without knowing ovengine.

    OvengineError
    ├── ModelNotFoundError      FileNotFoundError   no file at the path of a model
    ├── ModelError              ValueError          empty, truncated, foreign or refused model
    ├── UnknownDeviceError      ValueError          a device that OpenVINO does not list
    ├── UnknownPluginError      ValueError          a loader, selector, batcher or policy nobody offers
    ├── ConfigError             ValueError          an argument of `load` that is out of range
    │   └── PropertyError       ValueError          an OpenVINO property unknown, read-only or refused
    ├── PluginError             RuntimeError        a plugin raised or returned nonsense
    ├── InputError              ValueError, RuntimeError    wrong input name, count, rank, shape or row count
    ├── InputTypeError          TypeError           a dtype that cannot be cast, or no array at all
    ├── QueueFull               RuntimeError        `max_queue_size` requests wait already
    ├── InferenceTimeout        TimeoutError        the result did not come in time
    ├── DeadlineUnmeetable      TimeoutError        the result would come after the deadline: not accepted
    ├── DeadlineExceeded        TimeoutError        the deadline came before the request was run
    ├── Superseded              concurrent.futures.CancelledError   a newer request has taken its place
    ├── Cancelled               concurrent.futures.CancelledError
    ├── InferenceError          RuntimeError        `infer()` failed on the rows of this request
    │   └── OutOfMemory         MemoryError         there was no memory for its batch
    ├── LeaseLost               RuntimeError        the batch went on without this lease
    ├── EngineClosed            RuntimeError        the model, engine or session is closed
    └── ForkedError             RuntimeError        used in a child of the process that loaded it

    PluginWarning (UserWarning)                     a plugin failed and a built-in took its place
    CacheWarning (UserWarning)                      an entry of the cache cannot be read or written
"""

import concurrent.futures

__all__ = [
    "CacheWarning",
    "Cancelled",
    "ConfigError",
    "DeadlineExceeded",
    "DeadlineUnmeetable",
    "EngineClosed",
    "ForkedError",
    "InferenceError",
    "InferenceTimeout",
    "InputError",
    "InputTypeError",
    "LeaseLost",
    "ModelError",
    "ModelNotFoundError",
    "OutOfMemory",
    "OvengineError",
    "PluginError",
    "PluginWarning",
    "PropertyError",
    "QueueFull",
    "Superseded",
    "UnknownDeviceError",
    "UnknownPluginError",
]


class OvengineError(Exception):
    """Base of all errors of ovengine."""


class ModelNotFoundError(OvengineError, FileNotFoundError):
    """There is no file at the given path (or no `.bin` beside an IR that needs one)."""


class ModelError(OvengineError, ValueError):
    """The model is empty, truncated, not of the expected format, or refused by OpenVINO."""


class UnknownDeviceError(OvengineError, ValueError):
    """No such device; the text lists those available."""


class UnknownPluginError(OvengineError, ValueError):
    """No such loader, device selector, batcher or scheduler policy; the text lists the choices."""


class ConfigError(OvengineError, ValueError):
    """An argument of `load` or `Engine` that is out of range; the text says what is allowed."""


class PropertyError(ConfigError):
    """An OpenVINO property that the device does not know, does not let be set, or whose value it refuses."""


class PluginError(OvengineError, RuntimeError):
    """A plugin raised, or returned something that its hook does not allow."""


class InputError(OvengineError, ValueError, RuntimeError):
    """Inputs that do not fit the model (names, count, rank, shape, unequal rows), or an argument out of range.

    A RuntimeError as well, which is what OpenVINO raises for them.
    """


class InputTypeError(OvengineError, TypeError):
    """An input that is not a numeric array, or of a dtype that NumPy's same_kind rule does not cast."""


class QueueFull(OvengineError, RuntimeError):
    """The queue holds `max_queue_size` requests, or its group's share of them; this one was not accepted."""


class InferenceTimeout(OvengineError, TimeoutError):
    """The timeout of a blocking call has passed."""


class DeadlineUnmeetable(OvengineError, TimeoutError):
    """By what waits and what an inference takes, the result would come after the deadline; not accepted."""


class DeadlineExceeded(OvengineError, TimeoutError):
    """The deadline came while the request waited, or was too near to begin; it was not run."""


class Superseded(OvengineError, concurrent.futures.CancelledError):
    """A newer request of the same group, both with `latest_only`, has taken its place in the queue."""


class Cancelled(OvengineError, concurrent.futures.CancelledError):
    """The request was cancelled before it had a result."""


class InferenceError(OvengineError, RuntimeError):
    """`infer()` failed on the rows of this request; rows of other requests are not concerned."""


class OutOfMemory(InferenceError, MemoryError):
    """There was no memory for the batch of this request, which was not run. Later ones run as soon as there is."""


class LeaseLost(OvengineError, RuntimeError):
    """The lease was abandoned or held too long, and its batch ran without it."""


class EngineClosed(OvengineError, RuntimeError):
    """The model, its engine or the session was closed before the request could be run."""


class ForkedError(OvengineError, RuntimeError):
    """The model was loaded by the parent process, whose threads are not here; start processes by `spawn`."""


class PluginWarning(UserWarning):
    """A plugin failed; the text names it, says why, and what is used in its place."""


class CacheWarning(UserWarning):
    """Something in the cache cannot be read or written; it counts as not there."""
