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
    index: Index[frozenset[str]] = Index(lambda: store, lambda words: words)
    for key, words in changes:
        before = store.pop(key, frozenset())
        if words is not None:
            store[key] = words
        assert index.update(key) == before | (words or frozenset())
        for term in "xyz":
            assert index.find(term) == [store[key] for key in sorted(store) if term in store[key]]
