"""[master]: whom the workers become."""

from __future__ import annotations

import os
import pwd

import pytest

from tests.settings.conftest import Load, Problems


@pytest.mark.parametrize(("umask", "held"), [('"027"', 0o27), ('"0077"', 0o77), ("0o22", 0o22), ("0", 0)])
def test_a_umask_is_octal_and_users_and_groups_are_names_or_numbers(settings: Load, umask: str, held: int) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    master = settings(f'[master]\nuser = "{me}"\ngroup = 7\numask = {umask}\n').master
    assert (master.user, master.group, master.umask) == (os.getuid(), 7, held)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('user = "nobody-here"', 'user: expected a user that exists, got "nobody-here"'),
        ('group = "nobody-here"', 'group: expected a group that exists, got "nobody-here"'),
        ("umask = 27000", 'umask: expected a umask such as "027" or 0o027, got 27000'),
        ('umask = "9"', 'umask: expected a umask such as "027" or 0o027, got "9"'),
    ],
)
def test_nobody_and_no_umask_are_refused(problems: Problems, text: str, problem: str) -> None:
    assert problems(f"[master]\n{text}\n") == [f"master.{problem}"]
