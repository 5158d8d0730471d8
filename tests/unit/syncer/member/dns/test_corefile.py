"""What is put into a Corefile, when it is not, and that taking it out leaves no trace."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies

from fleetboard.model import names
from syncer.member.dns import corefile

ADDRESS = "10.96.0.11"
KUBEADM = """.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
"""


def plan(text: str = KUBEADM, custom: dict[str, str] | None = None, address: str = ADDRESS) -> corefile.CorefilePlan:
    return corefile.plan(text, custom or {}, address=address, zones=names.ZONES)


def test_the_block_is_added_behind_what_is_there() -> None:
    planned = plan()
    assert planned.corefile.startswith(KUBEADM)
    ours = corefile.parse(planned.corefile)[-1]
    assert ours.keys == ("hyperos.local:53", "clusterset.local:53")
    assert ("forward", ".", ADDRESS, "{", "max_fails", "0", "}") in ours.directives
    assert planned.notes == ()


TEXTS = strategies.sampled_from(
    [KUBEADM, KUBEADM.rstrip("\n"), KUBEADM + "\n\n", "# a\n" + KUBEADM + "example.org {\n}\n"]
)


TAILS = strategies.lists(strategies.sampled_from(["\n", "  ", "\t", "# note\n", "# note"]), max_size=6).map("".join)


@hypothesis.given(TEXTS, TAILS)
def test_removal_restores_every_byte(text: str, tail: str) -> None:
    planned = plan(text + tail)
    assert corefile.remove(planned.corefile) == text + tail
    assert corefile.remove(text + tail) == text + tail


@hypothesis.given(TEXTS)
def test_planning_again_changes_nothing(text: str) -> None:
    once = plan(text).corefile
    assert plan(once).corefile == once


def test_a_new_address_replaces_the_block() -> None:
    moved = plan(plan().corefile, address="10.96.0.77").corefile
    assert ADDRESS not in moved
    assert moved.count(corefile.BEGIN) == 1


def test_what_was_appended_behind_the_block_stays_on_its_line() -> None:
    text = plan(KUBEADM.rstrip("\n")).corefile + "example.org {\n    whoami\n}\n"
    assert corefile.remove(text) == KUBEADM + "example.org {\n    whoami\n}\n"


@pytest.mark.parametrize(
    "block",
    [
        "hyperos.local {\n  whoami\n}\n",
        "dns://HyperOS.local.:53 {\n  whoami\n}\n",
        "example.org, hyperos.local:53 {\n  whoami\n}\n",
        "example.org,\nhyperos.local {\n  whoami\n}\n",
        '"hyperos.local" { # quoted\n  whoami\n}\n',
    ],
)
def test_a_zone_with_a_server_block_is_left_to_it(block: str) -> None:
    planned = plan(KUBEADM + block)
    assert corefile.parse(planned.corefile)[-1].keys == ("clusterset.local:53",)
    (note,) = planned.notes
    assert note.startswith("hyperos.local is already served by the server block")
    assert ADDRESS in note


def test_a_zone_that_a_plugin_serves_is_left_to_it() -> None:
    text = KUBEADM.replace("kubernetes cluster.local", "multicluster clusterset.local\n    kubernetes cluster.local")
    planned = plan(text)
    assert corefile.parse(planned.corefile)[-1].keys == ("hyperos.local:53",)
    assert "the plugin multicluster" in planned.notes[0]


def test_without_a_free_zone_there_is_no_block() -> None:
    text = KUBEADM + "hyperos.local clusterset.local {\n  forward . 10.0.0.1\n}\n"
    planned = plan(text)
    assert planned.corefile == text
    assert planned.block == ""
    assert len(planned.notes) == 2


def test_comments_and_other_plugins_may_name_our_zones() -> None:
    text = KUBEADM.replace("cache 30", "cache 30 # hyperos.local { }\n    rewrite name suffix .fleet hyperos.local")
    assert plan(text).notes == ()


def test_the_block_listens_where_the_root_block_does() -> None:
    text = "tls://.:853 {\n}\n.:1053 {\n  bind 169.254.20.10 10.0.0.10\n}\n"
    ours = corefile.parse(plan(text).corefile)[-1]
    assert ours.keys == ("hyperos.local:1053", "clusterset.local:1053")
    assert ("bind", "169.254.20.10", "10.0.0.10") in ours.directives


def test_the_imported_config_map_gets_the_block_where_there_is_one() -> None:
    text = KUBEADM + "import /etc/coredns/custom/*.server\n"
    planned = plan(plan().corefile + "import /etc/coredns/custom/*.server\n")
    assert planned.corefile == text
    assert planned.custom == planned.block != ""
    taken = plan(text, {"corp.server": "hyperos.local {\n}\n", corefile.CUSTOM_KEY: "old"})
    assert "hyperos.local" in taken.notes[0]
    assert "hyperos.local:53" not in taken.block


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no server block"),
        ("# nothing\n", "no server block"),
        (".:53\nforward . 8.8.8.8\n", "has no braces"),
        (".:53 {\n  health {\n}\n", "don't match"),
        (".:53 {\n}\n}\n", "stray brace"),
        (".:53,\n", "ends after"),
        (KUBEADM + f"{corefile.BEGIN}: half\n", "without the other"),
        (KUBEADM + f"{corefile.END}\n", "without the other"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(corefile.CorefileRefusedError, match=sentence):
        plan(text)


def test_snippets_and_imports_of_them_are_understood() -> None:
    text = "(common) {\n  errors\n  cache 30\n}\n.:53 {\n  import common\n}\n"
    assert corefile.remove(plan(text).corefile) == text
