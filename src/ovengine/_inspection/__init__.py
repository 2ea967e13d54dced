"""Model files are input: they are looked through before OpenVINO reads them."""

from ovengine._inspection._isolation import load_apart
from ovengine._inspection._reader import ModelReader
from ovengine._inspection._settings import Inspection

__all__ = ["Inspection", "ModelReader", "load_apart"]
