"""The client's verbs, over real sockets."""

from __future__ import annotations

import datetime
import pathlib
import socket
import ssl
import threading
from collections.abc import Iterator

import fake_api
import msgspec
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleetboard.kube import encoding, errors
from fleetboard.kube.client import Client
from fleetboard.model import core, fleet, meta, resource


@pytest.fixture
def api() -> Iterator[fake_api.FakeApi]:
    with fake_api.FakeApi() as running:
        yield running


def make_claim(name: str = "10.112.0.1", *, owner: str = "c1") -> fleet.Claim:
    return fleet.Claim(
        metadata=meta.ObjectMeta(name=name, namespace="default"),
        spec=fleet.ClaimSpec(cidr=f"{name}/32", purpose="vip", owner=owner),
    )


def test_an_object_goes_there_and_back(api: fake_api.FakeApi) -> None:
    client = api.client()
    created = client.create(resource.CLAIMS, make_claim())
    assert created.metadata.uid
    assert client.get(resource.CLAIMS, "10.112.0.1", "default") == created
    assert client.find(resource.CLAIMS, "10.112.0.2", "default") is None
    assert client.delete(resource.CLAIMS, "10.112.0.1", "default") is True
    assert client.delete(resource.CLAIMS, "10.112.0.1", "default") is False


def test_creating_a_taken_name_is_not_a_mere_conflict(api: fake_api.FakeApi) -> None:
    client = api.client()
    client.create(resource.CLAIMS, make_claim())
    with pytest.raises(errors.AlreadyExistsError) as caught:
        client.create(resource.CLAIMS, make_claim())
    assert not isinstance(caught.value, errors.ConflictError)


def test_replacing_an_older_version_is_a_conflict(api: fake_api.FakeApi) -> None:
    client = api.client()
    old = client.create(resource.CLAIMS, make_claim())
    client.replace(resource.CLAIMS, msgspec.structs.replace(old, spec=make_claim(owner="c2").spec))
    with pytest.raises(errors.ConflictError):
        client.replace(resource.CLAIMS, old)


def test_what_nobody_else_writes_is_created_and_then_replaced(api: fake_api.FakeApi) -> None:
    client = api.client()
    first = client.put(resource.CLAIMS, make_claim(), current=None)
    second = client.put(resource.CLAIMS, make_claim(owner="c2"), current=first)
    assert [request.method for request in api.requests] == ["POST", "PUT"]
    assert second.spec.owner == "c2"


def test_a_put_finds_what_came_or_went_unnoticed(api: fake_api.FakeApi) -> None:
    client = api.client()
    api.put("claims", "10.112.0.1", spec={"cidr": "", "purpose": "vip", "owner": "someone"})
    there = client.put(resource.CLAIMS, make_claim(owner="c2"), current=None)
    assert there.spec.owner == "c2"
    api.remove("claims", "10.112.0.1")
    again = client.put(resource.CLAIMS, make_claim(owner="c3"), current=there)
    assert again.spec.owner == "c3"
    client.put(resource.CLAIMS, make_claim(owner="c4"), current=again)  # whose answer is lost
    assert client.put(resource.CLAIMS, make_claim(owner="c5"), current=again).spec.owner == "c5"


@pytest.mark.parametrize("known", [True, False])
def test_a_put_mends_what_cannot_be_read(api: fake_api.FakeApi, known: bool) -> None:
    client = api.client()
    found = client.create(resource.CLAIMS, make_claim()) if known else None
    api.put("claims", "10.112.0.1", spec="no object")
    assert client.put(resource.CLAIMS, make_claim(owner="c2"), current=found).spec.owner == "c2"


def test_deleting_by_uid_spares_a_namesake(api: fake_api.FakeApi) -> None:
    client = api.client()
    client.create(resource.CLAIMS, make_claim())
    assert client.delete(resource.CLAIMS, "10.112.0.1", "default", uid="another") is False
    assert client.find(resource.CLAIMS, "10.112.0.1", "default") is not None


def test_apply_sends_what_the_manager_means_and_nothing_of_the_server(api: fake_api.FakeApi) -> None:
    client = api.client()
    created = client.create(resource.CLAIMS, make_claim())
    client.apply(resource.CLAIMS, created, manager="syncer")
    request = api.requests[-1]
    assert request.method == "PATCH"
    assert request.headers["content-type"] == "application/apply-patch+yaml"
    assert request.query == {"fieldManager": "syncer", "force": "true"}
    assert request.body == {
        "apiVersion": "fleetboard.io/v1alpha1",
        "kind": "Claim",
        "metadata": {"name": "10.112.0.1", "namespace": "default"},
        "spec": {"cidr": "10.112.0.1/32", "purpose": "vip", "owner": "c1"},
    }


@pytest.mark.parametrize("text", ["\x7f", "\x80", "\x85", "\u2028", "\u2029", "\ufeff", "\ufffe", "\uffff"])
def test_what_yaml_takes_for_something_else_is_escaped_in_what_is_applied(api: fake_api.FakeApi, text: str) -> None:
    metadata = {"name": "c", "namespace": "default", "annotations": {"said": f'a{text}b \u00e4\u20ac\U0001f600 \\ "'}}
    sent = encoding.as_yaml({"metadata": metadata})
    assert text.encode() not in sent
    assert "\u00e4\u20ac\U0001f600".encode() in sent
    assert msgspec.json.decode(sent) == yaml.safe_load(sent) == {"metadata": metadata}
    claim = {"metadata": metadata, "spec": {"cidr": "", "purpose": "vip", "owner": ""}}
    api.client().apply(resource.CLAIMS, claim, manager="syncer")
    assert api.requests[-1].body["metadata"] == metadata


def test_applying_a_status_sends_the_status_alone(api: fake_api.FakeApi) -> None:
    client = api.client()
    api.put("peers", "c1", spec={"cluster": "c1"})
    peer = client.get(resource.PEERS, "c1", "default")
    client.apply(
        resource.PEERS,
        {"metadata": {"name": "c1", "namespace": "default", "labels": {"a": "b"}}, "spec": {}, "status": {"mtu": 1}},
        manager="syncer-hub",
        subresource="status",
    )
    assert peer.status.mtu == 0
    assert api.requests[-1].path.endswith("/peers/c1/status")
    assert api.requests[-1].body["metadata"] == {"name": "c1", "namespace": "default"}
    assert set(api.requests[-1].body) == {"apiVersion", "kind", "metadata", "status"}


def test_merge_patch_changes_only_what_it_names(api: fake_api.FakeApi) -> None:
    client = api.client()
    client.create(resource.CLAIMS, make_claim())
    patched = client.merge_patch(resource.CLAIMS, "10.112.0.1", "default", {"spec": {"owner": "c2"}})
    assert (patched.spec.owner, patched.spec.cidr) == ("c2", "10.112.0.1/32")


def test_a_long_list_comes_in_pages_and_compressed(api: fake_api.FakeApi) -> None:
    for number in range(1200):
        api.put("claims", f"c{number}", spec={"cidr": "", "purpose": "vip", "owner": ""})
    items, version = api.client().list(resource.CLAIMS, "default")
    assert len({item.metadata.name for item in items}) == 1200
    assert version == str(api.version)
    assert len(api.lists()) == 3
    assert api.lists()[0].headers["accept-encoding"] == "gzip"


def test_a_list_that_expires_between_pages_is_begun_again(api: fake_api.FakeApi) -> None:
    for number in range(600):
        api.put("claims", f"c{number}", spec={"cidr": "", "purpose": "vip", "owner": ""})
    api.fail(200, body=b'{"metadata":{"continue":"1/1","resourceVersion":"1"},"items":[]}')
    api.compact()
    items, _ = api.client().list(resource.CLAIMS, "default")
    assert len(items) == 600


def test_selectors_reach_the_server_whole(api: fake_api.FakeApi) -> None:
    api.client().list(resource.CLAIMS, selector="a=b,c!=d,e in (f)", field_selector="metadata.name=x")
    assert api.requests[-1].query["labelSelector"] == "a=b,c!=d,e in (f)"
    assert api.requests[-1].query["fieldSelector"] == "metadata.name=x"


def test_an_object_that_cannot_be_read_does_not_hide_the_others(api: fake_api.FakeApi) -> None:
    api.put("claims", "bad", spec="no object")
    api.put("claims", "good", spec={"cidr": "", "purpose": "vip", "owner": ""})
    items, _ = api.client().list(resource.CLAIMS, "default")
    assert [item.metadata.name for item in items] == ["good"]
    with pytest.raises(errors.AnswerRefusedError, match="Claim"):
        api.client().get(resource.CLAIMS, "bad", "default")


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (400, "BadRequest", errors.ApiError),
        (401, "Unauthorized", errors.UnauthorizedError),
        (403, "Forbidden", errors.ForbiddenError),
        (404, "NotFound", errors.NotFoundError),
        (409, "Conflict", errors.ConflictError),
        (409, "AlreadyExists", errors.AlreadyExistsError),
        (410, "Expired", errors.GoneError),
        (410, "Gone", errors.GoneError),
        (422, "Invalid", errors.InvalidError),
        (429, "TooManyRequests", errors.ThrottledError),
        (500, "InternalError", errors.ServerError),
        (503, "", errors.ServerError),
    ],
)
def test_each_refusal_has_its_type(
    api: fake_api.FakeApi, status: int, reason: str, expected: type[errors.ApiError]
) -> None:
    api.fail(status, reason=reason, message="m" * 1000)
    with pytest.raises(errors.ApiError) as caught:
        api.client().get(resource.CLAIMS, "x", "default")
    assert type(caught.value) is expected
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert caught.value.message == "m" * 256
    assert "GET /apis/fleetboard.io/v1alpha1/namespaces/default/claims/x" in str(caught.value)


def test_a_body_that_is_no_status_stays_out_of_the_error(api: fake_api.FakeApi) -> None:
    api.fail(502, body=b'{"kind":"Secret","message":"hush"}')
    api.fail(502, body=b"<html>hush</html>")
    for _ in range(2):
        with pytest.raises(errors.ServerError) as caught:
            api.client().get(resource.CLAIMS, "x", "default")
        assert "hush" not in f"{caught.value}{caught.value!r}{caught.value.__cause__!r}"


def test_the_servers_wish_to_wait_is_kept(api: fake_api.FakeApi) -> None:
    api.fail(429, headers={"Retry-After": "7"})
    with pytest.raises(errors.ThrottledError) as caught:
        api.client().read("/version")
    assert caught.value.retry_after_s == 7


def test_a_renewed_token_is_used_by_the_next_request(api: fake_api.FakeApi) -> None:
    token = ["one"]
    client = Client.from_token(api.url, ca_pem=b"", token=lambda: token[0], user_agent="test/1")
    api.tokens = {"one"}
    client.list(resource.CLAIMS)
    api.tokens, token[0] = {"two"}, "two"
    client.list(resource.CLAIMS)
    assert [request.headers["authorization"] for request in api.requests] == ["Bearer one", "Bearer two"]
    assert api.requests[0].headers["user-agent"] == "test/1"


def test_without_a_token_nothing_is_asked(api: fake_api.FakeApi) -> None:
    with pytest.raises(errors.UnauthorizedError, match="no token"):
        api.client(token="").list(resource.CLAIMS)
    assert api.requests == []


def test_a_token_that_cannot_be_read_is_reported(api: fake_api.FakeApi) -> None:
    def token() -> str:
        raise FileNotFoundError("/nowhere")

    client = Client.from_token(api.url, ca_pem=b"", token=token, user_agent="test/1")
    with pytest.raises(errors.ConfigurationRefusedError, match="nowhere"):
        client.list(resource.CLAIMS)


@pytest.mark.parametrize("name", ["..", "a/b", "a?x=1", "a#b", "%2e%2e", "-a"])
def test_a_name_cannot_address_something_else(api: fake_api.FakeApi, name: str) -> None:
    with pytest.raises(errors.InvalidError):
        api.client().get(resource.CLAIMS, name, "default")
    with pytest.raises(errors.InvalidError):
        api.client().delete(resource.CLAIMS, "x", name)
    assert api.requests == []


def test_an_object_without_a_name_cannot_be_applied(api: fake_api.FakeApi) -> None:
    with pytest.raises(errors.InvalidError, match=r"metadata\.name"):
        api.client().apply(resource.CLAIMS, {"metadata": {"namespace": "default"}}, manager="m")
    with pytest.raises(errors.InvalidError, match="namespace"):
        api.client().apply(resource.CLAIMS, {"metadata": {"name": "x"}}, manager="m")
    assert api.requests == []


def test_refusals_leave_the_connection_usable(api: fake_api.FakeApi) -> None:
    client = api.client()
    for _ in range(20):
        assert client.find(resource.CLAIMS, "x", "default") is None
    client.list(resource.CLAIMS)
    assert api.connections == 1


def test_a_huge_refusal_is_not_read_to_its_end(api: fake_api.FakeApi) -> None:
    api.fail(500, body=b"x" * 20_000_000)
    with pytest.raises(errors.ServerError):
        api.client().read("/version")


def test_reading_survives_a_connection_that_the_server_closed_when_idle(api: fake_api.FakeApi) -> None:
    client = api.client()
    client.list(resource.CLAIMS)
    api.cut()
    client.list(resource.CLAIMS)


def test_a_server_that_stalls_is_unreachable(api: fake_api.FakeApi) -> None:
    api.stalled.set()
    with pytest.raises(errors.UnreachableError, match="no answer in time") as caught:
        api.client().get(resource.CLAIMS, "x", "default", timeout_s=0.2)
    assert api.url in str(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client.from_token(f"http://127.0.0.1:{port}", ca_pem=b"", token=lambda: "t", user_agent="test/1")
    with pytest.raises(errors.UnreachableError) as caught:
        client.list(resource.CLAIMS)
    assert str(caught.value) == f"http://127.0.0.1:{port}: connection refused"


@pytest.mark.parametrize("server", ["https://hub:99999", "https://a b", "ftp://hub", ""])
def test_what_is_no_url_is_refused_by_name(server: str) -> None:
    with pytest.raises(errors.ConfigurationRefusedError) as caught:
        Client.from_token(server, ca_pem=b"", token=lambda: "t", user_agent="test/1")
    assert str(caught.value).startswith(
        f"API server {server.rstrip('/')!r} is not a URL: expected one such as https://"
    )


def test_a_server_without_a_scheme_is_asked_in_clear_as_kubectl_does(api: fake_api.FakeApi) -> None:
    server = api.client().server.removeprefix("http://")
    client = Client.from_token(server, ca_pem=b"", token=lambda: "t", user_agent="test/1")
    assert client.list(resource.CLAIMS)[0] == []
    assert api.requests[-1].path.startswith("/apis/")


def test_a_host_that_does_not_exist_is_named() -> None:
    client = Client.from_token("http://nowhere.invalid", ca_pem=b"", token=lambda: "t", user_agent="test/1")
    with pytest.raises(errors.UnreachableError, match=r"nowhere\.invalid: no such host"):
        client.list(resource.CLAIMS)


def make_certificate(folder: pathlib.Path) -> tuple[bytes, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    both = pem + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(both)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return pem, context


@pytest.fixture
def tls_server(tmp_path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """A server that greets anyone over TLS with an empty object."""
    pem, context = make_certificate(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            plain.settimeout(5)
            try:
                with context.wrap_socket(plain, server_side=True) as sock:
                    sock.recv(65536)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            except OSError:
                plain.close()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], pem
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def tls_client(server: str, *, ca_pem: bytes) -> Client:
    return Client.from_token(server, ca_pem=ca_pem, token=lambda: "t", user_agent="test/1")


def test_a_trusted_certificate_is_accepted(tls_server: tuple[int, bytes]) -> None:
    port, pem = tls_server
    assert tls_client(f"https://localhost:{port}", ca_pem=pem).read("/version") == b"{}"


def test_an_unknown_certificate_is_refused_with_a_sentence(
    tls_server: tuple[int, bytes], tmp_path: pathlib.Path
) -> None:
    port, _ = tls_server
    other, _ = make_certificate(tmp_path)
    with pytest.raises(errors.CertificateRefusedError, match=r"certificate is refused: .*certificate"):
        tls_client(f"https://localhost:{port}", ca_pem=other).read("/version")


def test_a_certificate_for_another_name_is_refused(tls_server: tuple[int, bytes]) -> None:
    port, pem = tls_server
    with pytest.raises(errors.CertificateRefusedError, match=r"127\.0\.0\.1"):
        tls_client(f"https://127.0.0.1:{port}", ca_pem=pem).read("/version")


def test_a_server_without_tls_is_unreachable_and_not_distrusted(api: fake_api.FakeApi, tmp_path: pathlib.Path) -> None:
    pem, _ = make_certificate(tmp_path)
    with pytest.raises(errors.UnreachableError, match="TLS failed") as caught:
        tls_client(api.url.replace("http:", "https:"), ca_pem=pem).read("/version")
    assert not isinstance(caught.value, errors.CertificateRefusedError)


def test_outside_a_pod_there_is_no_in_cluster_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(errors.ConfigurationRefusedError, match="service account"):
        Client.in_cluster(user_agent="test/1")


def test_a_kubeconfig_context_is_used(api: fake_api.FakeApi, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "config"
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: other
clusters: [{{name: one, cluster: {{server: "{api.url}"}}}}]
users: [{{name: me, user: {{token: kube}}}}]
contexts: [{{name: here, context: {{cluster: one, user: me}}}}, {{name: other, context: {{cluster: no, user: me}}}}]
"""
    )
    Client.from_kubeconfig(str(path), "here", user_agent="test/1").list(resource.CLAIMS)
    assert api.requests[0].headers["authorization"] == "Bearer kube"
    for config, context in ((str(path), "nowhere"), (str(tmp_path / "none"), "here")):
        with pytest.raises(errors.ConfigurationRefusedError, match="kubeconfig"):
            Client.from_kubeconfig(config, context, user_agent="test/1")


def test_required_texts_that_equal_their_default_are_sent(api: fake_api.FakeApi) -> None:
    slice_ = core.EndpointSlice(metadata=meta.ObjectMeta(name="s", namespace="default"))
    api.client().create(resource.ENDPOINT_SLICES, slice_)
    assert api.requests[-1].body["addressType"] == "IPv4"


def test_post_and_read_reach_any_path(api: fake_api.FakeApi) -> None:
    api.fail(201, method="POST", body=b'{"status":{"token":"x"}}')
    answer = api.client().post("/api/v1/namespaces/n/serviceaccounts/s/token", {"spec": {}})
    assert answer == {"status": {"token": "x"}}
    api.fail(200, body=b"ok")
    assert api.client().read("/readyz") == b"ok"
