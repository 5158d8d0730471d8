"""Adds the forwarding of the fleet's zones to a Corefile, and removes it.

Invariant: nothing outside the marks changes, so ``remove(plan(text).corefile) == text`` byte for byte. A zone that the
Corefile already serves is never added: with a zone twice, new CoreDNS pods fail to start while old ones keep running.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence

BEGIN = "# BEGIN fleetboard"
END = "# END fleetboard"
CUSTOM_KEY = "fleetboard.server"
"""Key in the ConfigMap coredns-custom, from which the Corefile of some distributions imports ``*.server``."""

_MARKED = re.compile(rf"^{BEGIN}\b[^\n]*\n.*?^{END}[^\n]*(?:\n|\Z)", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"(?:(?P<scheme>[a-z0-9]+)://)?(?P<zone>.*?)(?::(?P<port>[0-9]+))?")
# Plugins that answer for the zones they name. Others, such as rewrite or log, may name our zones without harm.
_SERVING = frozenset(
    {"auto", "azure", "clouddns", "etcd", "file", "forward", "grpc", "hosts", "k8s_external", "kubernetes"}
    | {"multicluster", "route53", "secondary", "template"}
)


class CorefileRefusedError(ValueError):
    """The Corefile can't be changed; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServerBlock:
    """One server block or snippet: its keys, and its directives as lists of words with those of inner braces."""

    keys: tuple[str, ...]
    directives: tuple[tuple[str, ...], ...]

    @property
    def title(self) -> str:
        """Name the block as the Corefile does."""
        return " ".join(self.keys)


@dataclasses.dataclass(frozen=True, slots=True)
class CorefilePlan:
    """The wanted configuration.

    Attributes:
        corefile: Text of the Corefile.
        custom: Text of ``CUSTOM_KEY``; None when the Corefile itself has the block, or there is no block.
        block: The block, wherever it goes; empty when every zone is already served.
        notes: A sentence for each zone that something else serves, and that is left to it.
    """

    corefile: str
    custom: str | None
    block: str
    notes: tuple[str, ...]


def plan(corefile: str, custom: Mapping[str, str], *, address: str, zones: Sequence[str]) -> CorefilePlan:
    """Forward ``zones`` to ``address``, in the Corefile or in the ConfigMap that it imports.

    Raises:
        CorefileRefusedError: the text can't be parsed, or has no server block in braces.
    """
    base = remove(corefile)
    others = [text for key, text in sorted(custom.items()) if key.endswith(".server") and key != CUSTOM_KEY]
    blocks = parse(base)
    if not any(block.directives or block.keys for block in blocks):
        raise CorefileRefusedError("the Corefile has no server block: expected one such as `.:53 { ... }`")
    every = [*blocks, *(block for text in others for block in parse(text))]
    served = {zone: where for zone in zones if (where := _served_by(zone, every)) is not None}
    notes = tuple(
        f"{zone} is already served by {where} of CoreDNS and left alone: remove it there or forward it to {address}"
        for zone, where in served.items()
    )
    free = [zone for zone in zones if zone not in served]
    if not free:
        return CorefilePlan(base, None, "", notes)
    block = render(free, address=address, root=_root(blocks))
    if _imports_servers(blocks):
        return CorefilePlan(base, block, block, notes)
    return CorefilePlan(f"{base}\n{block}", None, block, notes)


def render(zones: Sequence[str], *, address: str, root: ServerBlock | None = None) -> str:
    """Return the marked block; it listens where the root block does.

    Answers are cached for 2 s and denials for 1 s, so that names follow the fleet within their TTL of 5 s. CoreDNS' own
    minimum of 5 s has to be lowered for that. The one upstream is a Service, which is never marked as failed.
    """
    ipaddress.ip_address(address)
    bind = "".join(f"    {' '.join(line)}\n" for line in (root.directives if root else ()) if line[0] == "bind")
    keys = " ".join(f"{zone}:{_port(root)}" for zone in zones)
    return (
        f"{BEGIN}: written by the fleetboard agent, which puts it back; dns.configureCoreDNS=false stops that\n"
        f"{keys} {{\n"
        f"{bind}"
        "    errors\n"
        "    cache {\n"
        "        success 9984 2 0\n"
        "        denial 9984 1 0\n"
        "    }\n"
        "    loadbalance\n"
        f"    forward . {address} {{\n"
        "        max_fails 0\n"
        "    }\n"
        "}\n"
        f"{END}\n"
    )


def remove(corefile: str) -> str:
    """Return the text without the marked block.

    Raises:
        CorefileRefusedError: one of the two marks is missing.
    """
    while found := _MARKED.search(corefile):
        before, after = corefile[: found.start()], corefile[found.end() :]
        # The line break before the block is ours, unless someone joined the lines around it.
        if before.endswith("\n\n") or (before.endswith("\n") and not after) or before == "\n":
            before = before[:-1]
        corefile = before + after
    if any(line.startswith((BEGIN, END)) for line in corefile.splitlines()):
        raise CorefileRefusedError(f"the Corefile has {BEGIN!r} or {END!r} without the other: remove that line")
    return corefile


def parse(corefile: str) -> tuple[ServerBlock, ...]:
    """Read the server blocks; imports at the top level become a block without keys.

    Raises:
        CorefileRefusedError: braces don't match, or the file is a single server without braces.
    """
    lines = _lines(corefile)
    blocks, imports = [], []
    keys: list[str] = []
    while lines:
        line = lines.pop(0)
        if line[0] == "import" and not keys:
            imports.append(tuple(line))
            continue
        opens = line[-1] == "{"
        words = line[:-1] if opens else line
        if "{" in words or "}" in words:
            raise CorefileRefusedError(f"the Corefile has a stray brace in the line `{' '.join(line)}`")
        keys += [word.rstrip(",") for word in words]
        if opens:
            blocks.append(ServerBlock(tuple(keys), _directives(lines, keys)))
            keys = []
        elif not words[-1].endswith(","):
            raise CorefileRefusedError(
                f"the Corefile's server `{' '.join(keys)}` has no braces: put braces around its plugins, or add by hand"
            )
    if keys:
        raise CorefileRefusedError(f"the Corefile ends after `{' '.join(keys)}`")
    return (*blocks, ServerBlock((), tuple(imports))) if imports else tuple(blocks)


def _directives(lines: list[list[str]], keys: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Consume lines up to the brace that ends the block."""
    found: list[tuple[str, ...]] = []
    depth = 0
    while lines:
        line = lines.pop(0)
        if line == ["}"] and depth == 0:
            return tuple(found)
        if depth == 0:
            found.append(tuple(line))
        else:
            found[-1] += tuple(line)
        depth += line.count("{") - line.count("}")
        if depth < 0:
            break
    raise CorefileRefusedError(f"the braces of the Corefile's block `{' '.join(keys)}` don't match")


def _lines(corefile: str) -> list[list[str]]:
    lines: dict[int, list[str]] = {}
    for number, word in _words(corefile):
        lines.setdefault(number, []).append(word)
    return list(lines.values())


def _words(corefile: str) -> Iterator[tuple[int, str]]:
    """Iterate over (line, word) as CoreDNS' lexer does: quotes keep blanks, ``#`` starts a comment."""
    pattern = re.compile(r'"(?P<quoted>(?:\\.|[^"\\])*)"?|(?P<comment>#[^\n]*)|(?P<word>[^\s#]+)|\s+', re.DOTALL)
    for found in pattern.finditer(corefile):
        line = corefile.count("\n", 0, found.start())
        if found["word"] is not None:
            yield line, found["word"]
        elif found["quoted"] is not None:
            yield line, found["quoted"].replace('\\"', '"')


def _served_by(zone: str, blocks: Sequence[ServerBlock]) -> str | None:
    for block in blocks:
        if any(_key(key)[0] == zone for key in block.keys):
            return f"the server block `{block.title}`"
        for line in block.directives:
            if line[0] in _SERVING and any(_key(word)[0] == zone for word in line[1:]):
                return f"the plugin {line[0]} in the server block `{block.title}`"
    return None


def _key(key: str) -> tuple[str, str, str]:
    """Split a server block's key into zone, port and scheme."""
    found = _KEY.fullmatch(key.lower())
    assert found is not None
    zone = found["zone"]
    return (zone if zone == "." else zone.rstrip(".")), found["port"] or "", found["scheme"] or "dns"


def _root(blocks: Sequence[ServerBlock]) -> ServerBlock | None:
    """Return the block that serves plain queries for all names: ours must listen at the same address."""
    for block in blocks:
        if any(_key(key)[0] in (".", "") and _key(key)[2] == "dns" for key in block.keys):
            return block
    return None


def _port(root: ServerBlock | None) -> str:
    ports = (_key(key)[1] for key in (root.keys if root else ()) if _key(key)[0] in (".", "") and _key(key)[2] == "dns")
    return next((port for port in ports if port), "53")


def _imports_servers(blocks: Sequence[ServerBlock]) -> bool:
    return any(
        not block.keys and line[0] == "import" and line[-1].endswith("*.server")
        for block in blocks
        for line in block.directives
    )
