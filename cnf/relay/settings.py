"""What the relay reads from its environment.

Invariant: a value is parsed here or refused with a sentence that names the variable.
"""

from __future__ import annotations

import dataclasses

from cnf.tunnel import errors
from cnf.tunnel.plan import endpoints
from fleetboard.model import names
from fleetboard.runtime import environment


@dataclasses.dataclass(frozen=True, slots=True)
class RelaySettings:
    """Settings of ``python -m cnf.relay``.

    Attributes:
        namespace: The relay's own, which holds the Secret with its key.
        clusterset: Name of the clusterset that it serves.
        endpoints: Where members reach its tunnel, each ``host:port``.
        observe_port: Of metrics and health checks.
        log_level: Lowest level that is logged.
    """

    namespace: str
    clusterset: str
    endpoints: tuple[str, ...]
    observe_port: int
    log_level: str


def read() -> RelaySettings:
    """Read the environment.

    Raises:
        SettingRefusedError: naming the variable, its value and what was expected.
    """
    return RelaySettings(
        namespace=environment.read("NAMESPACE", names.NAMESPACE),
        clusterset=environment.read("CLUSTERSET", "default", parse=names.parse_clusterset_name),
        endpoints=environment.read("TUNNEL_ENDPOINTS", parse=_parse_endpoints),
        observe_port=environment.read("OBSERVE_PORT", names.OBSERVE_PORT, parse=environment.port),
        log_level=environment.read("LOG_LEVEL", "info"),
    )


def _parse_endpoints(text: str) -> tuple[str, ...]:
    try:
        return tuple(str(endpoints.parse(word)) for word in environment.words(text))
    except errors.EndpointRefusedError as err:
        raise ValueError(str(err)) from err
