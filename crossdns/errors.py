"""Errors of crossdns.

CrossdnsError
├── ListenError        the port can't be bound
├── WorkerDiedError    an answering process ended or no longer takes updates
└── FeedBrokenError    what came over the feed is not a sequence of frames
"""


class CrossdnsError(Exception):
    """Any error of this package."""


class ListenError(CrossdnsError):
    """The port can't be bound."""


class WorkerDiedError(CrossdnsError):
    """An answering process ended or no longer takes updates."""


class FeedBrokenError(CrossdnsError):
    """What came over the feed, or stands in the saved zone, is not a sequence of frames."""
