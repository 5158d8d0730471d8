"""The key of a service and the texts it is written as."""

from __future__ import annotations

import pytest

from fleetboard.model import core, keys, meta, names
from fleetboard.model.keys import ServiceKey

WEB = ServiceKey("shop", "web")


def test_a_key_is_written_with_a_slash_and_with_a_dot() -> None:
    assert (WEB.slash, WEB.dotted, str(WEB)) == ("shop/web", "shop.web", "shop/web")


def test_keys_are_ordered_by_namespace_and_name() -> None:
    first, second, third = ServiceKey("a", "z"), ServiceKey("b", "a"), ServiceKey("b", "c")
    assert sorted([third, second, first]) == [first, second, third]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("shop.web", WEB),
        ("fleetboard-default/shop.web", WEB),
        # An object of another kind of name: what follows the first dot is the service's.
        ("shop.web.v2", ServiceKey("shop", "web.v2")),
        ("web", None),
        ("fleetboard-default/web", None),
        ("fleetboard.default/web", None),
        (".web", None),
        ("shop.", None),
        ("", None),
    ],
)
def test_a_hub_objects_name_is_parsed(text: str, key: ServiceKey | None) -> None:
    assert keys.parse_dotted(text) == key


def test_a_members_key_is_parsed() -> None:
    assert keys.parse_slash("shop/web") == WEB


@pytest.mark.parametrize("text", ["web", "/web", "shop/", ""])
def test_a_members_key_without_two_parts_is_refused(text: str) -> None:
    with pytest.raises(names.NameRefusedError, match="is not <namespace>/<service>"):
        keys.parse_slash(text)


def make_slice(**labels: str) -> core.EndpointSlice:
    spelled = {"service": names.LABEL_SERVICE_NAME, "namespace": names.LABEL_SERVICE_NAMESPACE}
    return core.EndpointSlice(
        metadata=meta.ObjectMeta(
            name="web-1", namespace="here", labels={spelled[key]: value for key, value in labels.items()}
        )
    )


@pytest.mark.parametrize(
    ("labels", "imported", "exchanged"),
    [
        ({"service": "web"}, ServiceKey("here", "web"), None),
        ({"service": "web", "namespace": "shop"}, ServiceKey("here", "web"), WEB),
        ({"namespace": "shop"}, None, None),
        ({}, None, None),
    ],
)
def test_a_slices_labels_name_its_service(
    labels: dict[str, str], imported: ServiceKey | None, exchanged: ServiceKey | None
) -> None:
    item = make_slice(**labels)
    assert (keys.of_imported(item), keys.of_exchanged(item)) == (imported, exchanged)
