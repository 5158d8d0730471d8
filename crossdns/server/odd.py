"""Answers the messages that are not one plain question: broken, rare, or in a form that has to be parsed first.

Invariant: a message that is no query gets no reply, so two servers never answer each other in a loop. A query that
can't be served gets the rcode that says why.
"""

from __future__ import annotations

import struct

import dnslib

from crossdns.server.answerer import (
    FORMERR,
    NOERROR,
    NOTIMP,
    OPT,
    REFUSED,
    TCP_MAX,
    UDP_MAX,
    UDP_PLAIN,
    Answerer,
    flags,
)
from crossdns.zone import encode

_BADVERS_EXTENDED = b"\1"
# One OPT and one signature; a query has no other.
_ADDITIONAL_MAX = 2


def answer(answerer: Answerer, data: bytes, *, udp: bool) -> bytes | None:
    """Return the reply, or None when the message gets none."""
    if len(data) < 12 or data[2] & 0x80:
        return None
    if (data[2] >> 3) & 0x0F:
        return _header(data, NOTIMP)
    questions, answers, authorities, additional = struct.unpack("!HHHH", data[4:12])
    if questions != 1 or answers or authorities > 1 or additional > _ADDITIONAL_MAX:
        return _header(data, FORMERR)
    end = _question_end(data)
    parsed = None if end is None else _parse(data)
    if parsed is None:
        return _header(data, FORMERR)
    return _parsed(answerer, data, parsed, asked=data[12:end], udp=udp)


def _parsed(answerer: Answerer, data: bytes, parsed: dnslib.DNSRecord, *, asked: bytes, udp: bool) -> bytes | None:
    type_ = parsed.q.qtype
    if type_ in (encode.TYPE_AXFR, encode.TYPE_IXFR):
        return _header(data, REFUSED)
    opts = [record for record in parsed.ar if record.rtype == encode.TYPE_OPT]
    if len(opts) > 1 or parsed.auth or any(record.rname.label for record in opts):
        return _header(data, FORMERR)
    opt, limit = b"", UDP_PLAIN
    if opts:
        opt, limit = OPT, min(max(opts[0].rclass, UDP_PLAIN), UDP_MAX)
        if (opts[0].ttl >> 16) & 0xFF:
            return _bad_version(data, asked)
    reply = answerer.question(data, asked, opt=opt, limit=limit if udp else TCP_MAX)
    return _header(data, NOTIMP) if reply is None else reply


def _parse(data: bytes) -> dnslib.DNSRecord | None:
    try:
        return dnslib.DNSRecord.parse(data)
    # dnslib follows names in the additional section even where they point at each other in a circle.
    except (dnslib.DNSError, ValueError, IndexError, struct.error, RecursionError):
        return None


def _question_end(data: bytes) -> int | None:
    """Return where the question ends; None when its name is malformed, compressed, or not ASCII."""
    at = 12
    while at < len(data) and 0 < data[at] < 64:
        at += data[at] + 1
    well_formed = at + 5 <= len(data) and data[at] == 0 and at - 12 <= 254 and data[12:at].isascii()
    return at + 5 if well_formed else None


def _header(data: bytes, rcode: int) -> bytes:
    """Reply with a header alone."""
    return data[:2] + flags(data, rcode) + bytes(8)


def _bad_version(data: bytes, asked: bytes) -> bytes:
    """Reply BADVERS (16): its upper bits are in the OPT record, which also says that crossdns speaks version 0."""
    opt = OPT[:5] + _BADVERS_EXTENDED + OPT[6:]
    return data[:2] + flags(data, NOERROR) + b"\0\1\0\0\0\0\0\1" + asked + opt
