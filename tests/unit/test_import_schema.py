"""Which fields of a ServiceImport this cluster's CRD can hold."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import fake_api
import pytest
import yaml

from fleetboard.model import resource
from syncer import schema

CRDS = pathlib.Path(__file__).parents[2] / "manifests/crds"
PATH = ("status", "endpointSliceObjects")


def document(*, with_field: bool) -> dict[str, Any]:
    """Return what the API server serves of our own CRD, or of one that lacks the field."""
    crd = yaml.safe_load((CRDS / "multicluster.x-k8s.io_serviceimports.yaml").read_text())
    served = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    if not with_field:
        del served["properties"]["status"]["properties"]["endpointSliceObjects"]
    named = [{"group": "multicluster.x-k8s.io", "kind": "ServiceImport", "version": "v1alpha1"}]
    schemas = {"x.ServiceImportList": {"type": "object"}, "x.ServiceImport": served}
    schemas["x.ServiceImport"]["x-kubernetes-group-version-kind"] = named
    return {"components": {"schemas": schemas}}


@pytest.mark.parametrize("with_field", [True, False])
def test_r22_a_field_is_used_only_where_the_served_schema_has_it(with_field: bool) -> None:
    with fake_api.FakeApi() as api:
        api.fail(200, body=json.dumps(document(with_field=with_field)).encode())
        assert schema.has_field(api.client(), resource.SERVICE_IMPORTS, *PATH) is with_field
        assert api.asked[-1].path == "/openapi/v3/apis/multicluster.x-k8s.io/v1alpha1"


def test_a_schema_that_can_not_be_read_counts_as_without() -> None:
    with fake_api.FakeApi() as api:
        api.fail(403, reason="Forbidden")
        api.fail(200, body=b"not JSON")
        assert not schema.has_field(api.client(), resource.SERVICE_IMPORTS, *PATH)
        assert not schema.has_field(api.client(), resource.SERVICE_IMPORTS, *PATH)
