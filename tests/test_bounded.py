"""Bounded caches: the newest entries are there, and no more than there may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefork.bounded import LONGEST_NAME, NAMES, NameTable, remember


@given(st.lists(st.tuples(st.integers(0, 9), st.integers())), st.integers(1, 5))
def test_a_cache_has_the_entries_that_came_last(entries: list[tuple[int, int]], most: int) -> None:
    cache: dict[int, int] = {}
    model: dict[int, int] = {}
    for key, value in entries:
        remember(cache, key, value, most)
        model = {**model, key: value}
        model = dict([*model.items()][-most:])
        assert cache == model
        assert [*cache] == [*model]


def test_an_entry_that_comes_again_drives_out_no_other() -> None:
    cache = {1: 1, 2: 2}
    remember(cache, 2, 3, 2)
    assert cache == {1: 1, 2: 3}


def test_a_table_makes_each_name_once_and_keeps_no_more_than_it_may() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name.upper()

    table = NameTable(make)
    assert (table["a"], table["a"], made) == ("A", "A", ["a"])
    for number in range(2 * NAMES):
        assert table[f"n{number}"] == f"N{number}"
    assert len(table) == NAMES
    assert table["x" * (LONGEST_NAME + 1)] == "X" * (LONGEST_NAME + 1)
    assert max(map(len, table)) <= LONGEST_NAME
