"""Errors of crossdns.

CrossdnsError
├── ListenError        the port can't be bound
├── WorkerDiedError    an answering process ended or no longer takes updates
└── FeedBrokenError    the bytes of the feed, or of the saved zone, are not a sequence of frames
"""


class CrossdnsError(Exception):
    """Any error of this package."""


class ListenError(CrossdnsError):
    """The port can't be bound."""


class WorkerDiedError(CrossdnsError):
    """An answering process ended or no longer takes updates."""


class FeedBrokenError(CrossdnsError):
    """The bytes of the feed, or of the saved zone, are not a sequence of frames."""
