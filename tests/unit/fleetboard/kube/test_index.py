"""Finding objects by what is inside them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleetboard.kube.index import Index

Words = dict[str, frozenset[str]]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.frozensets(st.sampled_from("xyz")) | st.none())))
def test_an_index_finds_what_a_search_through_everything_finds(
    changes: list[tuple[str, frozenset[str] | None]],
) -> None:
    store: Words = {}
    index: Index[frozenset[str], str] = Index(lambda: store, lambda words: words)
    for key, words in changes:
        before = store.pop(key, frozenset())
        if words is not None:
            store[key] = words
        assert index.update(key) == before | (words or frozenset())
        for value in "xyz":
            assert index.find(value) == [store[key] for key in sorted(store) if value in store[key]]


def test_a_rebuilt_index_knows_the_store_and_nothing_else() -> None:
    store: Words = {"a": frozenset({"x"}), "b": frozenset({"x", "y"})}
    index: Index[frozenset[str], str] = Index(lambda: store, lambda words: words)
    index.rebuild()
    assert index.values() == {"x", "y"}

    # Replaced without notice, as a store is by a list while nobody follows it.
    store = {"c": frozenset({"z"})}
    index.rebuild()
    assert index.values() == {"z"}
    assert index.find("x") == []
    assert index.find("z") == [frozenset({"z"})]


def test_values_may_be_of_any_kind() -> None:
    store = {"one": 1, "two": 2, "three": 3}
    index: Index[int, bool] = Index(lambda: store, lambda number: frozenset({number % 2 == 0}))
    index.rebuild()
    assert index.find(False) == [1, 3]
    assert index.values() == {False, True}
