"""The link to a gateway as `status` shows it."""

from __future__ import annotations

import enum

import msgspec

from aegis.model.absent import Absent


class LinkState(enum.StrEnum):
    """The states of `gateway.state`."""

    UNCONFIGURED = "unconfigured"  # no gateway is named
    DISCONNECTED = "disconnected"  # one is, and nobody keeps a link
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    REGISTERING = "registering"
    CONNECTED = "connected"  # authenticated, registered with this gateway, and that is on disk
    BACKOFF = "backoff"  # tried, and waits before it tries again
    REFUSED = "refused"  # a gateway said no, or what is configured cannot be spoken


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`since_ns`, `authenticated_ns`: wall clock. `reason` is empty where nothing is to explain.

    `uid` is the one a gateway gave, or before that the one the key gives.
    """

    state: LinkState
    reason: str
    since_ns: int
    url: str | Absent
    uid: str | Absent
    protocol: str | Absent
    authenticated_ns: int | Absent
    insecure_v1: bool | Absent
    up: bool = False  # records and orders travel: connected, or registered and not yet written down
