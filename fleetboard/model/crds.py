"""Compares CustomResourceDefinitions by the version labels that they carry.

Invariant: a cluster's definition is never replaced by an older one. A downgrade would remove fields that objects hold
already, and the API server would drop them at the next write.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Any

from fleetboard.model import names

LABEL_REVISION = f"{names.GROUP}/crd-revision"
"""On Fleetboard's own definitions."""
LABEL_MCS_RELEASE = f"{names.MCS_GROUP}/release-version"
LABEL_MCS_REVISION = f"{names.MCS_GROUP}/crd-schema-revision"
"""On those of mcs-api, which other software of a cluster may install too."""

_RELEASE = re.compile(r"v(\d{1,6})\.(\d{1,6})\.(\d{1,6})(-[0-9A-Za-z.-]+)?")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Version:
    """How new a definition is; a definition without labels has the lowest version.

    A release candidate precedes its release.
    """

    release: tuple[int, int, int] = (0, 0, 0)
    final: bool = True
    candidate: str = ""
    revision: int = -1

    def __str__(self) -> str:
        if self.revision < 0:
            return "one without a version"
        release = ".".join(map(str, self.release))
        return (
            f"v{release}{self.candidate} revision {self.revision}" if any(self.release) else f"revision {self.revision}"
        )


class CrdStep(enum.Enum):
    """What to do with one definition."""

    INSTALL = "install"
    UPDATE = "update"
    KEEP = "keep"
    KEEP_NEWER = "keep the newer one"


def read_version(labels: Mapping[str, str]) -> Version:
    """Read the version from a definition's labels; invalid labels count as none."""
    own = labels.get(LABEL_REVISION, "")
    if own.isdecimal():
        return Version(revision=int(own))
    match = _RELEASE.fullmatch(labels.get(LABEL_MCS_RELEASE, ""))
    if match is None:
        return Version()
    revision = labels.get(LABEL_MCS_REVISION, "")
    return Version(
        release=(int(match[1]), int(match[2]), int(match[3])),
        final=match[4] is None,
        candidate=match[4] or "",
        revision=int(revision) if revision.isdecimal() else 0,
    )


def plan(ours: Mapping[str, Any], found_labels: Mapping[str, str] | None) -> CrdStep:
    """Decide on one definition; ``found_labels`` are those of the cluster's definition, None without one.

    An equal definition of mcs-api stays as it is, since other software may manage it; Fleetboard's own are
    applied again.
    """
    if found_labels is None:
        return CrdStep.INSTALL
    wanted, found = read_version(ours["metadata"].get("labels", {})), read_version(found_labels)
    if found > wanted:
        return CrdStep.KEEP_NEWER
    return CrdStep.KEEP if found == wanted and ours["spec"]["group"] != names.GROUP else CrdStep.UPDATE


def served_versions(spec: Mapping[str, Any]) -> set[str]:
    """Return the API versions that a definition serves."""
    return {version["name"] for version in spec.get("versions", []) if version.get("served")}
