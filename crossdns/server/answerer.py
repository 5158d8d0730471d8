"""Answers one DNS message from pre-encoded records, by slices of bytes and lookups in dictionaries alone.

Invariant: a reply is a well-formed message, no longer than the client accepts, with the client's id and its spelling of
the name. ``crossdns.server.odd`` answers every message that is not one plain question.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence

from crossdns.zone import encode, zone

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

# The longest answer by UDP that passes every path unfragmented (DNS flag day 2020).
UDP_MAX = 1232
UDP_PLAIN = 512
TCP_MAX = 65535

_HEADER = 12
_PLAIN = b"\0\1\0\0\0\0\0\0"
_WITH_OPT = b"\0\1\0\0\0\0\0\1"
_NO_RECORDS = b"\0\1\0\0\0\0"
_ONE_ANSWER = b"\0\1\0\1\0\0"
_ONE_AUTHORITY = b"\0\1\0\0\0\1"
# Name, type and sizes of an OPT record up to its extended rcode and version, which are 0; then the DO flag.
_OPT_HEAD = b"\0\0\x29" + UDP_MAX.to_bytes(2, "big") + b"\0\0"
OPT = _OPT_HEAD + b"\0\0\0\0"
_OPT_DO = _OPT_HEAD + b"\x80\0\0\0"
# Type and class of every question that a name may answer.
_TYPES = [
    encode.question(b"", type_)
    for type_ in (encode.TYPE_A, encode.TYPE_AAAA, encode.TYPE_SRV, encode.TYPE_TXT, encode.TYPE_NS)
]
_META_TYPES = frozenset({encode.TYPE_OPT, *range(249, 256)})

Stored = tuple[bytes, bytes, int]
"""Header counts up to authority, records, and length of each record if they may be rotated.

Without counts, the records are the input of ``encode.expand``.
"""


def store(answer: encode.Answer) -> Stored:
    """Return an answer in the form that ``Answerer`` looks up."""
    return _counts(answer.count) if answer.count else b"", answer.records, answer.step


@functools.cache
def _counts(answers: int) -> bytes:
    """Return the header's counts up to authority; questions with the same number of answers share one object."""
    return b"\0\1" + answers.to_bytes(2, "big") + b"\0\0"


@dataclasses.dataclass(slots=True)
class LiveZone:
    """The records served, the same in every zone; replaced as a whole, or changed in steps that each leave it correct.

    Attributes:
        answers: By question in lower case, its name relative to the zone.
        names: Every name that exists and holds no records, relative to the zone.
        soa: Content of the SOA record by encoded zone name.
    """

    answers: dict[bytes, Stored]
    names: set[bytes]
    soa: Mapping[bytes, bytes]


class Answerer:
    """Answers messages from the live zone, or SERVFAIL while there is none.

    Attributes:
        zone: None until a zone is received: an empty zone would answer NXDOMAIN for names that exist.
    """

    def __init__(self, apexes: Sequence[bytes]) -> None:
        self.zone: LiveZone | None = None
        self._apexes = frozenset(apexes)
        # Each zone's name, and where it begins in a question, counted from the end.
        self._tails = [(apex, -len(apex) - 4) for apex in apexes]
        self._depths = sorted({len(_label_offsets(apex) or ()) for apex in apexes})
        self._turns: collections.Counter[int] = collections.Counter()

    def plain(self, data: bytes, *, udp: bool) -> bytes | None:
        """Answer one plain question; return None for any other message, well-formed or not."""
        if len(data) < 17 or data[2] & 0xF8:
            return None
        end = data.find(0, _HEADER) + 5
        counts = data[4:12]
        if counts == _PLAIN and len(data) == end:
            opt, limit = b"", UDP_PLAIN
        elif counts == _WITH_OPT and end >= 17:
            read = read_opt(data, end)
            if read is None:
                return None
            opt, limit = read
        else:
            return None
        return self.question(data, data[12:end], opt=opt, limit=limit if udp else TCP_MAX)

    def question(self, data: bytes, asked: bytes, *, opt: bytes, limit: int) -> bytes | None:
        """Answer the question section ``asked``; ``data`` is the message whose id and flags the reply takes on."""
        live = self.zone
        found = None
        if live is not None:
            found = self._find(live.answers, asked) or self._find(live.answers, asked[:-4].lower() + asked[-4:])
        if found is None:
            return self._negative(data, asked, live, opt)
        (counts, records, step), apex = found
        if not counts:
            return _targets(data, asked, records, apex, opt=opt, limit=limit)
        if step:
            # Counted by family: a client that alternates A and AAAA would otherwise get every second rotation.
            self._turns[step] = turn = self._turns[step] + 1
            cut = turn * step % len(records)
            records = records[cut:] + records[:cut]
        additional = b"\0\1" if opt else b"\0\0"
        reply = data[:2] + flags(data, NOERROR) + counts + additional + asked + records + opt
        return reply if len(reply) <= limit else truncate(data, asked, records, opt=opt, limit=limit)

    def _find(self, answers: dict[bytes, Stored], asked: bytes) -> tuple[Stored, bytes] | None:
        for apex, start in self._tails:
            if asked[start:-4] == apex:
                stored = answers.get(asked[:start] + asked[-4:])
                return None if stored is None else (stored, apex)
        return None

    def _negative(self, data: bytes, asked: bytes, live: LiveZone | None, opt: bytes) -> bytes | None:
        """Answer a question that no records answer: NODATA, NXDOMAIN, REFUSED or SERVFAIL."""
        name = asked[:-4].lower()
        offsets = _label_offsets(name)
        type_ = int.from_bytes(asked[-4:-2], "big")
        # No name here has bytes above ASCII, and some clients fail on them in an echoed question.
        if offsets is None or not name.isascii() or (type_ in _META_TYPES and type_ != encode.TYPE_ANY):
            return None
        apex = self._apex_offset(name, offsets)
        if apex is None or asked[-2:] != b"\0\1":
            return _bare(data, asked, REFUSED, opt)
        if live is None:
            return _bare(data, asked, SERVFAIL, opt)
        relative = name[:apex]
        exists = relative in live.names or any(relative + asked_type in live.answers for asked_type in _TYPES)
        if exists and type_ == encode.TYPE_ANY:
            return _any(data, asked, opt)
        owner = (0xC000 | (_HEADER + apex)).to_bytes(2, "big")
        soa = encode.record(encode.TYPE_SOA, zone.TTL_S, live.soa[name[apex:]], owner=owner)
        counts = _ONE_ANSWER if not apex and type_ == encode.TYPE_SOA else _ONE_AUTHORITY
        head = data[:2] + flags(data, NOERROR if exists else NXDOMAIN) + counts
        return head + (b"\0\1" if opt else b"\0\0") + asked + soa + opt

    def _apex_offset(self, name: bytes, offsets: list[int]) -> int | None:
        for depth in self._depths:
            if len(offsets) >= depth and name[offsets[-depth] :] in self._apexes:
                return offsets[-depth]
        return None


def flags(data: bytes, rcode: int, *, truncated: bool = False) -> bytes:
    """Return the flags of a reply: response, authoritative unless it is an error, RD and CD as in the query."""
    authoritative = 0x04 if rcode in (NOERROR, NXDOMAIN) else 0
    return bytes((0x80 | authoritative | (0x02 if truncated else 0) | (data[2] & 0x79), (data[3] & 0x10) | rcode))


def read_opt(data: bytes, at: int) -> tuple[bytes, int] | None:
    """Read the OPT record that ends the message: (OPT of the reply, bytes the client accepts); None if there is none.

    Unknown options such as cookies are ignored (RFC 6891).
    """
    if len(data) < at + 11 or data[at : at + 3] != b"\0\0\x29" or data[at + 6]:
        return None
    if len(data) != at + 11 + (data[at + 9] << 8 | data[at + 10]):
        return None
    limit = min(max(data[at + 3] << 8 | data[at + 4], UDP_PLAIN), UDP_MAX)
    return (_OPT_DO if data[at + 7] & 0x80 else OPT), limit


def truncate(data: bytes, asked: bytes, records: bytes, *, opt: bytes, limit: int) -> bytes:
    """Answer with as many whole records as fit, and the TC flag: some clients never ask again by TCP."""
    room = limit - _HEADER - len(asked) - len(opt)
    end = count = 0
    while True:
        # Every record begins with a pointer of 2; its content's length stands at 10.
        after = end + 12 + int.from_bytes(records[end + 10 : end + 12], "big")
        if after > room or after > len(records):
            break
        end, count = after, count + 1
    counts = b"\0\1" + count.to_bytes(2, "big") + b"\0\0" + (b"\0\1" if opt else b"\0\0")
    return data[:2] + flags(data, NOERROR, truncated=True) + counts + asked + records[:end] + opt


def _targets(data: bytes, asked: bytes, targets: bytes, apex: bytes, *, opt: bytes, limit: int) -> bytes:
    """Answer with the SRV records that fit, and the TC flag when a datagram cuts some off."""
    room = limit - _HEADER - len(asked) - len(opt)
    count, records, cut = encode.expand(targets, apex, room=room)
    counts = b"\0\1" + count.to_bytes(2, "big") + b"\0\0" + (b"\0\1" if opt else b"\0\0")
    head = data[:2] + flags(data, NOERROR, truncated=cut and limit < TCP_MAX)
    return head + counts + asked + records + opt


def _bare(data: bytes, asked: bytes, rcode: int, opt: bytes) -> bytes:
    return data[:2] + flags(data, rcode) + _NO_RECORDS + (b"\0\1" if opt else b"\0\0") + asked + opt


def _any(data: bytes, asked: bytes, opt: bytes) -> bytes:
    """Answer ANY for a name that exists with the HINFO record that RFC 8482 defines."""
    made = encode.record(encode.TYPE_HINFO, zone.TTL_S, encode.text("RFC8482") + encode.text(""))
    head = data[:2] + flags(data, NOERROR) + _ONE_ANSWER
    return head + (b"\0\1" if opt else b"\0\0") + asked + made + opt


def _label_offsets(name: bytes) -> list[int] | None:
    """Return where each label of an encoded, uncompressed name begins; None when it is not one."""
    offsets = []
    at, last = 0, len(name) - 1
    if last > 254:
        return None
    while at < last:
        length = name[at]
        if not 0 < length < 64:
            return None
        offsets.append(at)
        at += length + 1
    return offsets if at == last and name[last] == 0 else None
