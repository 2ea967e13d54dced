"""Operators that take indices, in the tests of the `onnx` package: no answer is worse than OpenVINO's.

`make onnx-operators` runs the tests of all operators.
"""

from __future__ import annotations

import pytest

import onnx_operators

# They are loaded in so many groups, each with a cache of its own.
GROUPS = 6


@pytest.fixture(scope="module")
def cases() -> list[onnx_operators.Case]:
    return onnx_operators.cases(onnx_operators.INDEXED)


def test_there_are_tests_of_every_kind(cases: list[onnx_operators.Case]) -> None:
    for kind in ("gather", "scatter", "top_k", "onehot", "slice", "reversesequence", "nonmaxsuppression", "loop"):
        assert any(kind in case.name for case in cases), kind


@pytest.mark.parametrize("group", range(GROUPS))
def test_operators_with_indices_answer_as_openvino(cases: list[onnx_operators.Case], group: int) -> None:
    assert onnx_operators.sweep(cases[group::GROUPS]) == {}
