"""Sluice in Python: a codec, a client and a supplier, written from ``Protocol/`` alone.

Nothing but the standard library is used. ``wire`` holds the frames, ``session`` one connection,
``client`` and ``supplier`` the two roles.
"""

from .client import Client, Refused, Result, Task, TaskFailed
from .codes import Code, Retry
from .session import Certificate, ConnectionLost
from .supplier import (
    Assignment, Declined, Offer, Piece, Supplier, UpstreamRefused, UpstreamUnavailable,
)

__all__ = [
    "Assignment", "Certificate", "Client", "Code", "ConnectionLost", "Declined", "Offer", "Piece",
    "Refused", "Result", "Retry", "Supplier", "Task", "TaskFailed", "UpstreamRefused", "UpstreamUnavailable",
]
