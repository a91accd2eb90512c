"""A run with a store after a crash: in short what `python -m tests.crash_run` does at length."""

import pytest

from tests.crash_run import NODES, sweep


@pytest.mark.needs("strace")
def test_wherever_a_run_is_broken_nothing_that_was_acknowledged_runs_again():
    """A part of all system calls; the number is not a round one, so that faults and calls meet each other anew."""
    count, first, second = sweep(every=307, offset=23)
    assert count >= 15
    assert 0 < second < count * NODES
    assert first + second >= count * NODES
