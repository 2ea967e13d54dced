"""Device strings, row by row as OpenVINO's own tests of AUTO have them, and where ovengine decides otherwise."""

from __future__ import annotations

import pytest

from ovengine.builtin.device_selectors._device_list import Candidate, parse
from ovengine.errors import ConfigError, UnknownDeviceError

TWO_GPUS = ("CPU", "GPU.0", "GPU.1", "NPU")
ONE_GPU = ("CPU", "GPU", "NPU")


def devices(text: str, available: tuple[str, ...], foreign: tuple[str, ...] = ()) -> list[str]:
    return [candidate.device for candidate in parse(text, available, foreign).candidates]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AUTO", ["CPU", "GPU.0", "GPU.1", "NPU"]),
        ("AUTO: ", ["CPU", "GPU.0", "GPU.1", "NPU"]),  # OpenVINO takes a blank for a device
        ("AUTO:CPU, ", ["CPU"]),
        ("AUTO: ,CPU", ["CPU"]),
        ("AUTO:CPU,", ["CPU"]),
        ("AUTO:CPU,,GPU", ["CPU", "GPU.0", "GPU.1"]),
        ("AUTO:CPU, ,GPU", ["CPU", "GPU.0", "GPU.1"]),
        ("AUTO:CPU,GPU,GPU.1", ["CPU", "GPU.0", "GPU.1"]),
        ("AUTO:NPU,GPU,CPU,-GPU.0", ["NPU", "GPU.1", "CPU"]),
        ("AUTO:-GPU.0,GPU,CPU", ["GPU.1", "CPU"]),
        ("AUTO:-GPU.0,GPU", ["GPU.1"]),
        ("AUTO:-GPU,GPU.0", ["GPU.0"]),
        ("AUTO:GPU.0,-GPU", ["GPU.0"]),
        ("AUTO:-GPU.0", ["CPU", "GPU.1", "NPU"]),
        ("AUTO:-GPU.0,-GPU.1", ["CPU", "NPU"]),
        ("AUTO:-GPU.0,-GPU.1,-INVALID_DEVICE", ["CPU", "NPU"]),
        ("AUTO:GPU,-GPU.0", ["GPU.1"]),
        ("AUTO:-GPU,CPU", ["CPU"]),
        ("AUTO:-GPU.0,-CPU", ["GPU.1", "NPU"]),
        ("MULTI:GPU.1,CPU", ["GPU.1", "CPU"]),
        ("multi:gpu,cpu", ["GPU.0", "GPU.1", "CPU"]),
        ("CPU,GPU", ["CPU", "GPU.0", "GPU.1"]),
        ("GPU.1", ["GPU.1"]),
    ],
)
def test_a_list_names_devices_in_its_order(text: str, expected: list[str]) -> None:
    assert devices(text, TWO_GPUS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AUTO:GPU", ["GPU"]),
        ("AUTO:GPU.0", ["GPU"]),
        ("AUTO:GPU,GPU.0", ["GPU"]),
        ("AUTO:CPU", ["CPU"]),
        ("AUTO: ,GPU", ["GPU"]),
        ("AUTO:CPU,GPU", ["CPU", "GPU"]),
        ("AUTO:CPU,-GPU", ["CPU"]),
        ("AUTO:CPU,-GPU,GPU.0", ["CPU", "GPU"]),
        ("AUTO:CPU,GPU,-GPU.0", ["CPU"]),
        ("AUTO:CPU,GPU,-GPU.1", ["CPU", "GPU"]),
        ("AUTO:CPU,GPU.0,GPU", ["CPU", "GPU"]),
        ("AUTO:CPU,GPU,GPU.0", ["CPU", "GPU"]),
        ("AUTO:CPU,GPU,GPU.1", ["CPU", "GPU"]),
        ("AUTO:CPU,GPU.1,GPU", ["CPU", "GPU"]),
        ("AUTO:CPU,NPU", ["CPU", "NPU"]),
        ("AUTO:CPU,-NPU", ["CPU"]),
        ("AUTO:CPU,-INVALID_DEVICE", ["CPU"]),
        ("AUTO:CPU,GPU,NPU", ["CPU", "GPU", "NPU"]),
    ],
)
def test_a_family_with_one_device_is_the_same_with_and_without_its_default_id(text: str, expected: list[str]) -> None:
    assert devices(text, ONE_GPU) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AUTO", ["CPU", "GPU.0"]),
        ("AUTO:-GPU.0", ["CPU"]),
        ("AUTO:-CPU", ["GPU.0"]),
        ("AUTO:-CPU,-GPU.1", ["GPU.0"]),
        ("AUTO:-GPU.0,-GPU.1", ["CPU"]),
        ("AUTO:GPU", ["GPU.0", "GPU.1"]),
        ("AUTO:GPU.1", ["GPU.1"]),
        ("AUTO:GPU,-GPU.0", ["GPU.1"]),
        ("AUTO:CPU,GPU,GPU.1", ["CPU", "GPU.0", "GPU.1"]),
    ],
)
def test_another_vendors_gpu_is_used_only_where_it_is_named(text: str, expected: list[str]) -> None:
    assert devices(text, ("CPU", "GPU.0", "GPU.1"), foreign=("GPU.1",)) == expected


@pytest.mark.parametrize(
    "text", ["AUTO:-GPU.0,-GPU.1,-CPU,-NPU", "AUTO:-GPU,-CPU,-NPU", "AUTO:GPU,-GPU.0,-GPU.1", "AUTO:GPU.7", "GPU.7"]
)
def test_a_list_that_leaves_nothing_says_why_each_device_went(text: str) -> None:
    with pytest.raises(UnknownDeviceError, match=r"leaves no device; .*: (excluded|not on this machine)"):
        parse(text, TWO_GPUS)


def test_nothing_is_left_of_another_vendors_gpu_that_is_not_named() -> None:
    with pytest.raises(UnknownDeviceError, match=r"GPU\.1: another vendor's; name it to use it"):
        parse("AUTO:-CPU,-GPU.0", ("CPU", "GPU.0", "GPU.1"), foreign=("GPU.1",))


def test_devices_of_a_known_kind_that_are_not_there_are_left_out_with_a_reason() -> None:
    found = parse("AUTO:NPU,GPU,CPU", ("CPU",))
    assert found.candidates == (Candidate("CPU", None, 2),)
    assert found.left_out == (("NPU", "not on this machine"), ("GPU", "not on this machine"))


@pytest.mark.parametrize("text", ["AUTO:CPU,INVALID_DEVICE", "INVALID_DEVICE", "AUTO:-GPU.0,TPU", "CPU,CUP"])
def test_a_name_that_no_device_has_is_an_error(text: str) -> None:
    with pytest.raises(UnknownDeviceError, match="unknown device"):
        parse(text, TWO_GPUS)


def test_an_unknown_name_comes_with_the_nearest_ones() -> None:
    with pytest.raises(UnknownDeviceError, match=r"unknown device 'CUP' in 'AUTO:CUP' \(did you mean .*CPU"):
        parse("AUTO:CUP", TWO_GPUS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AUTO:CPU(1),GPU(2),NPU(4)", [("CPU", 1, 0), ("GPU.0", 2, 1), ("GPU.1", 2, 1), ("NPU", 4, 2)]),
        ("AUTO:CPU(3),GPU.1,NPU", [("CPU", 3, 0), ("GPU.1", None, 1), ("NPU", None, 2)]),
        ("MULTI:NPU, GPU.1, CPU ( 3 )", [("NPU", None, 0), ("GPU.1", None, 1), ("CPU", 3, 2)]),
        ("AUTO:CPU,GPU,NPU", [("CPU", None, 0), ("GPU.0", None, 1), ("GPU.1", None, 1), ("NPU", None, 2)]),
        ("AUTO", [("CPU", None, 0), ("GPU.0", None, 0), ("GPU.1", None, 0), ("NPU", None, 0)]),
    ],
)
def test_requests_and_priorities_are_those_of_the_list(text: str, expected: list[tuple[str, int | None, int]]) -> None:
    assert parse(text, TWO_GPUS).candidates == tuple(Candidate(*candidate) for candidate in expected)


@pytest.mark.parametrize("text", ["AUTO:CPU(-1),GPU", "AUTO:CPU(NA)", "CPU(0)", "CPU()", "CPU(1", "CPU)1("])
def test_requests_must_be_a_positive_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"integer of at least 1|is not a device"):
        parse(text, TWO_GPUS)


@pytest.mark.parametrize(
    "text",
    ["AUTO:AUTO", "AUTO:AUTO,CPU", "AUTO:CPU,AUTO:GPU", "CPU,MULTI", "CPU,MULTI.0", "AUTO:MULTI:CPU", "CPU,BATCH:CPU",
     "AUTO:-AUTO", "GPU,HETERO:CPU"],
)  # fmt: skip
def test_a_device_that_stands_for_others_is_no_member_of_a_list(text: str) -> None:
    with pytest.raises(ConfigError, match="stands for other devices"):
        parse(text, TWO_GPUS)


def test_only_the_beginning_of_a_name_tells_such_a_device() -> None:
    assert devices("CPU,GPU.MULTI_DETECT", TWO_GPUS) == ["CPU"]


def test_multi_needs_a_list() -> None:
    with pytest.raises(ConfigError, match="names no devices"):
        parse("MULTI", TWO_GPUS)
