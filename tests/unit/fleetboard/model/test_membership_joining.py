"""What a member makes of the hub's values and answers."""

from __future__ import annotations

import base64
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hub_objects import make_peer

from fleetboard.kube import errors
from fleetboard.model import core, membership
from syncer.member.join import credential, settings
from syncer.member.join.errors import (
    ClusterNameTakenError,
    ClusterRefusedError,
    HubCertificateError,
    HubRefusedError,
    HubUnreachableError,
    JoinError,
    JoinSettingsError,
    TokenRefusedError,
)

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def make_ca() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


CA = make_ca()
JOIN = settings.HubJoin("https://hub:6443", CA, "t", membership.Member("default", "c1"))


def make_secret(**changed: bytes) -> core.Secret:
    fields = {
        "server": b"https://hub:6443",
        "ca.crt": CA,
        "token": b"t",
        "cluster": b"c1",
        "clusterset": b"default",
    }
    fields |= {key.replace("_", "."): value for key, value in changed.items()}
    return core.Secret(data={key: base64.b64encode(value).decode() for key, value in fields.items()})


def test_the_charts_values_are_read() -> None:
    assert settings.parse_join(make_secret(server=b"https://hub:6443/\n")) == JOIN


@pytest.mark.parametrize(
    ("secret", "part"),
    [
        (None, "hub-join"),
        (make_secret(token=b""), "'token'"),
        (make_secret(server=b"http://hub"), "https://host:port"),
        (make_secret(server=b"https://hub:99999"), "https://host:port"),
        (make_secret(ca_crt=b"nonsense"), "hub.caData"),
        (make_secret(cluster=b"C1"), "'C1'"),
        (make_secret(cluster=b"hub"), "'hub'"),
        (make_secret(clusterset=b"a_b"), "'a_b'"),
        (core.Secret(data={"server": "%%%"}), "not base64"),
    ],
)
def test_values_that_cannot_work_are_refused_naming_the_field(secret: core.Secret | None, part: str) -> None:
    with pytest.raises(JoinSettingsError) as caught:
        settings.parse_join(secret)
    assert part in str(caught.value)


def test_a_credential_survives_a_restart() -> None:
    stored = settings.StoredCredential("https://hub:6443", "fleetboard-default-c1", CA, "t", 100, 200)
    rendered = settings.render_credential(stored, namespace="fleetboard-system")
    assert settings.parse_credential(core.Secret(data=rendered["data"])) == stored
    assert stored.is_for(JOIN)


def test_a_credential_is_shown_to_no_other_hub() -> None:
    for server, namespace in (
        ("https://other", "fleetboard-default-c1"),
        ("https://hub:6443", "fleetboard-default-c2"),
    ):
        assert not settings.StoredCredential(server, namespace, CA, "t", 1, 2).is_for(JOIN)


@pytest.mark.parametrize("data", [{}, {"token": "%%"}, {"token": "dA==", "server": "dA=="}])
def test_a_credential_that_cannot_be_read_counts_as_none(data: dict[str, str]) -> None:
    assert settings.parse_credential(core.Secret(data=data)) is None


def test_no_token_is_in_what_is_printed() -> None:
    stored = settings.StoredCredential("https://hub", "n", CA, "s3cret", 1, 2)
    joined = settings.HubJoin("https://hub", CA, "s3cret", JOIN.member)
    assert "s3cret" not in f"{stored!r} {joined!r}"


def test_renewal_is_daily_or_at_half_the_life_of_a_short_token() -> None:
    day = 24 * 3600
    assert credential.renewal_due(settings.StoredCredential("s", "n", CA, "t", 0, 30 * day)) == day
    assert credential.renewal_due(settings.StoredCredential("s", "n", CA, "t", 0, 3600)) == 1800


def test_a_name_that_another_cluster_has_is_refused() -> None:
    with pytest.raises(ClusterNameTakenError, match="'c1' is taken"):
        credential.check_peer(make_peer(uid="u1"), join=JOIN, cluster_uid="u2")
    credential.check_peer(make_peer(uid="u1"), join=JOIN, cluster_uid="u1")
    credential.check_peer(make_peer(), join=JOIN, cluster_uid="u1")


def test_a_cluster_that_the_hub_does_not_know_is_refused() -> None:
    with pytest.raises(ClusterRefusedError, match="no member 'c1'"):
        credential.check_peer(None, join=JOIN, cluster_uid="u1")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.CertificateRefusedError("x"), HubCertificateError),
        (errors.UnreachableError("x"), HubUnreachableError),
        (errors.api_error(401, "Unauthorized", "x"), TokenRefusedError),
        (errors.api_error(403, "Forbidden", "x"), ClusterRefusedError),
        (errors.api_error(404, "NotFound", "x"), ClusterRefusedError),
        (errors.api_error(500, "", "x"), HubRefusedError),
    ],
)
def test_each_answer_of_the_hub_has_its_own_sentence(error: errors.KubeError, kind: type[JoinError]) -> None:
    explained = credential.explain(error, JOIN)
    assert type(explained) is kind
    assert "https://hub:6443" in str(explained)
    assert "\n" not in str(explained)
