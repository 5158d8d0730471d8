"""Both charts repeat their common helpers.

A library chart would hold them once, and would ask for ``helm dependency build`` before ``helm install FOLDER``.
"""

from __future__ import annotations

import pathlib
import re

import pytest

CHARTS = pathlib.Path(__file__).parents[3] / "manifests/charts"
HELPER = re.compile(
    r'(?:^\{\{/\*(?:(?!\*/).)*\*/\}\}\n)?^\{\{- define "(?P<name>[^"]+)" -\}\}\n.*?(?=\n+(?:\{\{/\*|\{\{- define)|\Z)',
    re.M | re.S,
)


def read_helpers(chart: str) -> dict[str, str]:
    """Return each helper's text, with the comment above it."""
    text = (CHARTS / chart / "templates/_helpers.tpl").read_text()
    found = {match["name"]: match[0].strip() for match in HELPER.finditer(text)}
    assert list(found) == re.findall(r'define "([^"]+)"', text), "a helper that the pattern above doesn't see"
    return found


HUB, AGENT = read_helpers("fleetboard"), read_helpers("fleetboard-agent")


@pytest.mark.parametrize("name", HUB)
def test_a_helper_of_the_hubs_chart_is_the_same_in_the_agents(name: str) -> None:
    assert AGENT.get(name) == HUB[name]
