"""The hard cases of a cache (C1 to C19) and of interrupted runs (D1 to D5): where each is tried.

A row is proved where what it is about is tested; this table says where, and that nobody removes it unnoticed.
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CASES = {
    "C1 killed at every system call of a put": ["store/test_crash.py::test_wherever_a_put_is_broken"],
    "C2 EIO, ENOSPC, EINTR and short writes": [
        "store/test_crash.py::test_wherever_a_put_is_broken",
        "store/test_blobs.py::test_whatever_fails_nothing_is_left",
        "store/test_blobs.py::test_short_writes_are_gone_on_with",
        "store/test_crash_run.py::test_wherever_a_run_is_broken",
    ],
    "C3 loss of power": [
        "store/test_crash.py::test_after_a_loss_of_power_what_was_durable_is_there",
        "store/test_crash.py::test_after_a_loss_of_power_no_value_is_wrong",
    ],
    "C4 every bit flipped, every length cut": [
        "store/test_journal.py::test_no_bit_of_a_record_can_be_flipped",
        "store/test_journal.py::test_a_record_is_whole_or_nothing",
        "store/test_blobs.py::test_no_bit_of_a_blob_can_be_flipped",
        "store/test_blobs.py::test_a_blob_is_whole_or_nothing",
        "store/test_store.py::test_a_damaged_value_is_computed_again_wherever_it_is_noticed",
    ],
    "C5 sixteen programs on one store": ["store/test_entries.py::test_sixteen_programs_put_and_get_the_same_keys"],
    "C6 what changes the code runs again": [
        "keys/test_keys.py::test_a_change_counts_if_it_means_something",
        "store/test_explain.py::test_the_code_that_changed_is_named",
    ],
    "C7 comments, lines, compiled files, hash seed": [
        "keys/test_keys.py::test_a_change_counts_if_it_means_something",
        "keys/test_keys.py::test_compiled_files_change_nothing",
    ],
    "C8 versions of packages": ["keys/test_keys.py::test_a_package_counts_by_its_version"],
    "C9 sets, zeros, NaN, 1 and True and 1.0": [
        "keys/test_canonical.py::test_everything_in_the_table_means_the_same_in_another_process",
        "keys/test_canonical.py::test_what_holds_itself_has_an_end",
        "keys/test_canonical.py::test_nan_is_its_bits",
    ],
    "C10 arrays and tables": [
        "keys/test_canonical.py::test_the_layout_of_an_array_does_not_count",
        "keys/test_canonical.py::test_everything_in_the_table_means_something_else",
    ],
    "C11 what has no key": ["keys/test_canonical.py::test_what_means_nothing_later_is_refused_with_its_path"],
    "C12 a consumer that changes its value": [
        "store/test_recall.py::test_every_consumer_has_the_value_as_it_was_returned"
    ],
    "C13 no room, read-only, removed": [
        "store/test_entries.py::test_a_full_disk_of_one_mebibyte",
        "store/test_entries.py::test_a_store_that_can_only_be_read_is_read",
        "store/test_entries.py::test_a_store_that_is_removed_meanwhile_is_a_miss",
        "store/test_store.py::test_a_disk_without_room_costs_the_store_and_not_the_run",
    ],
    "C14 a store that others could write to": [
        "store/test_store.py::test_a_store_that_others_can_write_to_is_refused_before_anything_runs",
        "store/test_entries.py::test_what_is_no_file_is_not_read",
    ],
    "C15 a planted pickle": [
        "store/test_store.py::test_a_planted_pickle_never_runs",
        "store/test_journal.py::test_a_record_under_another_key_is_none",
        "store/test_journal.py::test_a_length_that_is_a_lie_costs_nothing",
    ],
    "C16 names that are paths": ["store/test_store.py::test_names_never_become_paths"],
    "C17 another format": ["store/test_seal.py::test_a_store_of_a_newer_format_is_refused_and_left_alone"],
    "C18 room is made while a run needs what is there": [
        "store/test_store.py::test_nothing_is_removed_while_a_run_uses_the_store",
        "store/test_entries.py::test_readers_go_on_while_room_is_made",
        "store/test_blobs.py::test_what_a_dead_writer_left_is_swept_and_what_a_living_one_writes_is_not",
    ],
    "C19 other file systems": ["store/test_journal.py::test_where_there_are_no_locks_each_writer_has_a_new_file"],
    "D1 killed at any system call of a run": [
        "store/test_crash_run.py::test_wherever_a_run_is_broken",
        "store/test_resume.py::test_a_program_that_is_killed_again_and_again",
    ],
    "D2 killed while it resumes": ["store/test_resume.py::test_a_program_that_is_killed_again_and_again"],
    "D3 two programs": ["store/test_resume.py::test_two_programs_on_one_store_are_right"],
    "D4 the index deleted, cut, flipped, locked": [
        "store/test_store.py::test_the_index_is_made_anew",
        "store/test_index.py::test_whatever_happens_to_it_all_is_found_and_one_warning_says_so",
        "store/test_index.py::test_a_store_is_used_without_it_when_it_stays_locked",
    ],
    "D5 resumed after a change": ["store/test_explain.py::test_the_code_that_changed_is_named"],
}


@pytest.mark.parametrize("case", CASES)
def test_every_hard_case_has_a_test(case):
    for where in CASES[case]:
        file, _, name = where.partition("::")
        assert re.search(rf"^def {name}\w*\(", (TESTS / file).read_text(), re.MULTILINE), where


def test_none_is_left_out():
    assert [case.split()[0] for case in CASES] == [f"C{i}" for i in range(1, 20)] + [f"D{i}" for i in range(1, 6)]
