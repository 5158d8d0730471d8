"""One lock for each container."""

from __future__ import annotations

from cnf.attach.locks import KeyedLocks


def test_a_lock_is_held_once_and_others_are_free() -> None:
    locks = KeyedLocks()
    with locks.hold("one", timeout_s=0) as first, locks.hold("one", timeout_s=0) as second:
        assert (first, second) == (True, False)
        with locks.hold("two", timeout_s=0) as other:
            assert other
    with locks.hold("one", timeout_s=0) as again:
        assert again


def test_users_of_a_lock_are_counted_until_they_leave() -> None:
    locks = KeyedLocks()
    assert locks.users("one") == 0
    with locks.hold("one", timeout_s=0), locks.hold("one", timeout_s=0):
        assert locks.users("one") == 2
    assert locks.users("one") == 0
