"""The caps of the agents' port, one value; tests and large sites replace some."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, bytes and counts."""

    header_bytes: int = 8 * 1024  # of an upgrade request
    frame_bytes: int = 64 * 1024  # before authentication
    frame_bytes_after: int = 1024 * 1024
    fragments: int = 4096  # of one message
    authenticate_s: float = 5.0  # from the connection to the authentication, in all
    idle_s: float = 60.0  # without a data frame
    ping_s: float = 5.0  # how often a peer of ours is pinged
    silent_s: float = 13.0  # without a byte of a peer of ours, which answers pings
    kernel_s: float = 15.0  # TCP_USER_TIMEOUT: bytes that nobody takes
    unauthenticated: int = 2048  # sockets at a time; of more, the oldest goes
    unauthenticated_of_address: int = 1024
    connections: int = 20_000
    handshakes_of_address_s: float = 200.0  # upgrade requests a second of one address; 0: any number
    handshakes_of_address_burst: int = 2500
    handshakes_s: float = 600.0  # authentications begun a second, of all
    handshakes_burst: int = 2500
    send_bytes: int = 1024 * 1024  # that wait for one agent to read
    order_window_bytes: int = 256 * 1024  # of orders given to one agent's socket; the rest stays in its queue
    send_bytes_before: int = 64 * 1024  # the same before authentication
    send_stall_s: float = 10.0  # without progress while bytes wait
    bytes_at_once: int = 4 * 1024 * 1024  # of batches of one agent that wait for the store
    bytes_at_once_in_all: int = 64 * 1024 * 1024
    queued_of_agent: int = 1000  # orders kept for one agent
    queued: int = 100_000
    order_bytes: int = 512 * 1024  # of one message, as it is sealed
    order_ttl_s: int = 86_400
    pending_registrations: int = 10_000
    http_registrations: int = 2048  # that wait over HTTP, of which nobody proved a key
    http_registrations_s: float = 100.0  # begun a second over HTTP, of all
    http_registrations_burst: int = 1000
    http_registrations_of_address_s: float = 20.0
    http_registrations_of_address_burst: int = 500
    agents: int = 100_000  # that may be registered; of more, none that is new
    pending_registration_s: float = 60.0
    session_s: int = 86_400  # an authentication holds; then the agent connects anew
    close_s: float = 1.0  # for a close frame to be answered
    lame_duck_s: float = 1.5  # over which a shutdown spreads its closes


DEFAULT = Limits()
