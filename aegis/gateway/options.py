"""What a gateway is started with, and which of it cannot be."""

from __future__ import annotations

import ipaddress
import ssl

import msgspec

from aegis.errors import ConfigError, NotBuilt, PermissionDenied
from aegis.gateway.limits import DEFAULT, Limits

Address = tuple[str, int]
FLAGS = "command line"


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`actions_listen` None: no Actions API. `store` and `bus` None: SQLite in `data_dir`, in the process.

    `port` 0 takes any that is free.
    """

    data_dir: str
    listen: Address = ("127.0.0.1", 8080)
    actions_listen: Address | None = ("127.0.0.1", 8083)
    store: str | None = None
    bus: str | None = None
    allow_v1: bool = False
    any_user_agent: bool = False
    insecure: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    advertise: str | None = None
    most_agents: int | None = None
    limits: Limits = DEFAULT

    @property
    def caps(self) -> Limits:
        """`limits`, with what was given beside them."""
        if self.most_agents is None:
            return self.limits
        return msgspec.structs.replace(self.limits, agents=self.most_agents)


def check(options: GatewayOptions) -> ssl.SSLContext | None:
    """The TLS context, where there is a certificate. Raises ConfigError, NotBuilt, PermissionDenied."""
    if options.store is not None and not options.store.startswith("sqlite"):
        raise NotBuilt(
            f"--store {_scheme(options.store)}: not built yet",
            hint="leave it out: SQLite in the data directory",
        )
    if options.store is not None:
        raise NotBuilt("--store sqlite: another place is not built yet", hint="choose one with --data-dir")
    if options.bus is not None:
        raise NotBuilt(f"--bus {_scheme(options.bus)}: not built yet", hint="leave it out: in the process")
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigError((("--tls-cert, --tls-key", FLAGS, "both or none"),))
    tls = _context(options.tls_cert, options.tls_key) if options.tls_cert and options.tls_key else None
    api = options.actions_listen
    if api is not None and tls is None and not options.insecure and not _is_loopback(api[0]):
        raise PermissionDenied(
            f"the Actions API on {api[0]} without TLS would show its token to the network",
            hint="give --tls-cert and --tls-key, or a loopback address, or --insecure",
        )
    return tls


def _context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or getattr(error, "reason", "") or str(error)
        raise ConfigError((("--tls-cert, --tls-key", FLAGS, f"{cert}, {key}: {reason}"),)) from error
    return context


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _scheme(url: str) -> str:
    """Without what may be a password."""
    return url.partition(":")[0]


def agent_command(options: GatewayOptions, port: int) -> str:
    """What to paste on a host, so that its agent comes here."""
    url = options.advertise
    if url is None:
        host = options.listen[0]
        shown = "THIS-HOST" if host in {"0.0.0.0", "::", ""} else f"[{host}]" if ":" in host else host  # noqa: S104  compared, not bound
        url = f"{'wss' if options.tls_cert else 'ws'}://{shown}:{port}"
    return f"aegis-agent --gateway-url {url} --protocol v1"
