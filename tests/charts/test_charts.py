"""Both charts pass Helm's lint and render without a cluster; values that can't work are refused by name.

Helm is the lab's, made where it isn't there: minutes where it is built from source. Hence these tests are part of
``make check`` and ``make test``, and not of the quick loop, ``make test-unit``.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
from collections.abc import Sequence

import pytest

# The first one may have to build Helm.
pytestmark = pytest.mark.timeout(1200)

ROOT = pathlib.Path(__file__).parents[2]
HUB, AGENT = "fleetboard", "fleetboard-agent"
REQUIRED = {
    HUB: ["api.server=https://192.0.2.1:6443", "tunnel.endpoints={192.0.2.1:31820}"],
    AGENT: ["hub.server=https://192.0.2.1:6443", "hub.caData=QQ==", "hub.token=t", "hub.cluster=c1"],
}
SWITCHES = ["networkPolicy=true", "monitoring.podMonitor=true"]
POLICY = ["attach.apiVersion=v1"]
FOLDERS_ROW = re.compile(r"\| `(/[^`]+)`[^|]*\| `(/[^`]+)`")


def read_folders() -> list[tuple[str, str]]:
    """Return the folders of each distribution, as the documentation's table has them."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [found for page in pages for found in FOLDERS_ROW.findall(page.read_text())]


FOLDERS = read_folders()
VARIANTS = [
    pytest.param(HUB, [], id="hub"),
    pytest.param(HUB, SWITCHES, id="hub-switches"),
    pytest.param(HUB, ["crds.install=false"], id="hub-without-crds"),
    pytest.param(AGENT, [], id="agent"),
    pytest.param(
        AGENT,
        [*SWITCHES, "probe.intervalSeconds=30", "dns.configureCoreDNS=false", "cnf.privileged=true"],
        id="agent-switches",
    ),
    pytest.param(AGENT, ["crds.install=false", "imports.protect=false"], id="agent-without-crds-and-protection"),
    *(
        pytest.param(
            AGENT, [f"attach.default={default}", *POLICY, "attach.exempt={cert-manager}"], id=f"agent-attach-{default}"
        )
        for default in ("namespaces", "all")
    ),
]
REFUSALS = [
    (HUB, ["fleetCIDR=10.0.0.0"], "fleetCIDR"),
    (AGENT, ["hub.cluster=Not_A_Label"], "cluster"),
    (AGENT, ["attach.default=some"], "default"),
    (AGENT, ["attach.default=all"], "serves no MutatingAdmissionPolicy"),
    (AGENT, ["attach.default=all", *POLICY, "nad.namespaces=null"], "nad.namespaces is empty"),
    (AGENT, ["probe.intervalSeconds=4000"], "intervalSeconds"),
    (AGENT, ["probe.intervalSeconds=4"], "intervalSeconds"),
    (AGENT, ["cni.binDir=opt/cni/bin"], "binDir"),
    (AGENT, ["cni.confDir=/etc/cni/net.d/"], "confDir"),
]


@pytest.fixture(scope="session")
def helm() -> str:
    found = subprocess.run([ROOT / "hack/lab", "tool", "helm"], stdout=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 0, "hack/lab tool helm failed; its output is above"
    return found.stdout.strip()


def run(
    helm: str, command: Sequence[str], chart: str, values: Sequence[str], *, namespace: str
) -> tuple[int, str, str]:
    settings = [argument for value in (*REQUIRED[chart], *values) for argument in ("--set", value)]
    done = subprocess.run(
        [helm, *command, f"manifests/charts/{chart}", "--namespace", namespace, *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # crds/ is a symbolic link on purpose: both charts ship the same CRDs.
    said = [line for line in done.stderr.splitlines() if "found symbolic link" not in line]
    return done.returncode, done.stdout, "\n".join(said)


def lint(helm: str, chart: str, values: Sequence[str]) -> None:
    """Lint a chart, which passes over refusals by ``fail``."""
    status, out, err = run(helm, ["lint", "--strict", "--quiet"], chart, values, namespace="fleetboard-system")
    assert status == 0, out + err


def template(
    helm: str, chart: str, values: Sequence[str], *, namespace: str = "fleetboard-system"
) -> tuple[int, str, str]:
    """Render a chart, refusals included."""
    return run(helm, ["template", "x", "--kube-version", "1.34.0"], chart, values, namespace=namespace)


def render(helm: str, chart: str, values: Sequence[str]) -> str:
    status, out, err = template(helm, chart, values)
    assert status == 0, err
    assert not err, "Helm warns"
    return out


@pytest.mark.parametrize(("chart", "values"), VARIANTS)
def test_a_chart_passes_lint_and_renders(helm: str, chart: str, values: Sequence[str]) -> None:
    lint(helm, chart, values)
    assert render(helm, chart, values)


def test_the_documentation_has_a_table_of_folders() -> None:
    assert ("/opt/cni/bin", "/etc/cni/net.d") in FOLDERS
    assert len(FOLDERS) >= 5


@pytest.mark.parametrize(("bin_dir", "conf_dir"), FOLDERS)
def test_the_folders_of_the_documentation_arrive_where_they_are_used(helm: str, bin_dir: str, conf_dir: str) -> None:
    values = [f"cni.binDir={bin_dir}", f"cni.confDir={conf_dir}", "cnf.startupTaint=true"]
    lint(helm, AGENT, values)
    rendered = render(helm, AGENT, values)
    assert f'hostPath: {{path: "{bin_dir}", type: Directory}}' in rendered
    assert f'hostPath: {{path: "{conf_dir}", type: Directory}}' in rendered
    assert f'name: CNI_BIN_DIR_HOST, value: "{bin_dir}"' in rendered


@pytest.mark.parametrize(("chart", "values", "named"), REFUSALS, ids=[" ".join(values) for _, values, _ in REFUSALS])
def test_values_that_can_not_work_are_refused_by_name(helm: str, chart: str, values: Sequence[str], named: str) -> None:
    status, _, err = template(helm, chart, values)
    assert status != 0, "accepted"
    assert named in err


@pytest.mark.parametrize("chart", [HUB, AGENT])
def test_another_namespace_is_refused(helm: str, chart: str) -> None:
    status, _, err = template(helm, chart, [], namespace="elsewhere")
    assert status != 0, "accepted"
    assert 'namespace "elsewhere"' in err
