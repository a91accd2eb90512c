"""The store after a crash: in short what `python -m tests.crash` does at length."""

import pytest

from tests.crash import break_one, breaks, flip_index, run_victim, sweep_calls
from tests.store.power import lose_power


@pytest.mark.needs("strace")
@pytest.mark.parametrize("durable", [False, True], ids=["usual", "durable"])
def test_wherever_a_put_is_broken_what_was_acknowledged_is_there(durable):
    """A part of all system calls; the number is not a round one, so that faults and calls meet each other anew."""
    count, acknowledged = sweep_calls(every=61, offset=17, durable=durable)
    assert count >= 20
    assert acknowledged > count


@pytest.mark.needs("strace")
def test_the_sweep_breaks_what_it_says():
    """The faults strike: a killed program acknowledges less than one that is let live."""
    todo = [one for one in breaks(durable=False) if one[0] == "write" and one[2] == "signal=KILL"]
    done = [break_one(*todo[i]) for i in (1, len(todo) // 2, -1)]
    assert done == sorted(done)
    assert done[0] < done[-1]


def test_a_program_that_is_not_broken_acknowledges_all(tmp_path):
    lines, errors = run_victim(str(tmp_path / "store"))
    assert lines == ["begin", *(f"kept {i}" for i in range(6)), "end", ""], errors
    lines, errors = run_victim(str(tmp_path / "store"))
    assert lines == ["begin", "end", ""], errors


def test_after_a_loss_of_power_what_was_durable_is_there():
    acknowledged, survived = lose_power([*range(60), 122, 296, 375, 1306], durable=True)  # those went wrong once
    assert survived == acknowledged > 60


def test_after_a_loss_of_power_no_value_is_wrong():
    acknowledged, survived = lose_power(range(60), durable=False)
    assert 0 < survived < acknowledged


def test_an_index_that_lost_a_bit_loses_nothing_more():
    flip_index(lambda size: range(3, size, size // 100), 8)
