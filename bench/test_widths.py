"""Images of many widths: the answers are the peer's, and memory is that of the buckets."""

from __future__ import annotations

import numpy as np

from bench import widths


def test_every_width_comes_once() -> None:
    chosen = np.concatenate(list(widths.portions(len(widths.WIDTHS), widths.PORTION, np.random.default_rng(1))))
    assert sorted(chosen) == list(widths.WIDTHS)


def test_buckets_hold_every_width() -> None:
    assert sorted(set(widths.BUCKETS)) == widths.BUCKETS
    assert widths.BUCKETS[0] // 2 <= widths.WIDTHS[0]
    assert widths.BUCKETS[-1] >= widths.WIDTHS[-1]


def test_answers_are_those_of_the_peer() -> None:
    outcome = widths.compare(requests=12, portion=6, peers=[({}, 2)])
    assert outcome.requests == 12
    assert outcome.ratio.least > 0
