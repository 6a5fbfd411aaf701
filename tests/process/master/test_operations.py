"""Operations: granted in order, together where one action does for several; refused where there is nothing to grant."""

from __future__ import annotations

from prefork.errors import BootError
from prefork.process.master.operations import Change, Operation, Operations
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller


def batches(*resizes: int | None) -> list[list[int | None]]:
    """How operations for a reload (None) and for a number of workers are granted that were all there before."""
    loop = Loop(make_poller())
    operations = Operations(loop)
    of: dict[Operation, int | None] = {}
    for count in resizes:
        is_reload = count is None
        operation = operations.add(Change.RELOAD if is_reload else Change.SCALE, lambda size, count=count: count)
        of[operation] = count
    granted: list[list[int | None]] = []

    async def grant() -> None:
        while sum(map(len, granted)) < len(resizes):
            granted.append([of[operation] for operation in await operations.next()])

    loop.spawn(grant(), "granting")
    loop.run()
    loop.close()
    return granted


def test_any_number_of_reloads_is_one() -> None:
    assert batches(None, None, None) == [[None, None, None]]


def test_changes_of_the_number_are_granted_together_and_in_order() -> None:
    assert batches(3, 5, 4) == [[3, 5, 4]]


def test_a_change_before_a_reload_and_one_after_it_are_two() -> None:
    assert batches(3, None, None, 5) == [[3], [None, None], [5]]


def test_what_is_refused_ends_with_the_reason_whether_it_came_before_or_after() -> None:
    operations = Operations(Loop(make_poller()))
    refusal = BootError("no more")
    before = operations.add(Change.RELOAD)
    assert not before.done.is_set()
    operations.refuse(refusal)
    after = operations.add(Change.SCALE, lambda size: size + 1)
    assert [operation.error for operation in (before, after)] == [refusal, refusal]
    assert before.done.is_set()
    assert after.done.is_set()
