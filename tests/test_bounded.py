"""Bounded caches: the newest entries are there, and no more than there may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefork.bounded import remember


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
