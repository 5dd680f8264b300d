"""Every error of Aegis, as one tree.

AegisError                      code (snake_case, stable), retryable, hint; str() is one line
  ConfigError                   option path and origin; all reported at once; exit 78
    RestartNeeded               an order about options that are taken at a start
  HostError                     errno
  KernelError                   errno, operation, object
    FeatureUnsupported CapabilityMissing LoadRejected AttachFailed MapFull MapAccessFailed AbiMismatch
      ShapeMismatch             of a shared or pinned table
  ProtocolError
    RemoteProtocolError
      EnvelopeInvalid           a message that cannot be read; names the field
      SealInvalid               a sealed message that does not open
      OrderUnknown OrderInvalid an order nobody takes here, or one with members it cannot have
    SessionMisused              of our own side: said in a state in which it cannot be said
  TransportError                retryable; retry_s where the peer said when
    ConnectFailed ConnectionLost
    GatewayRefused              somebody answered and said no
  PolicyError
    PolicyInvalid               document path and reason
      PolicyExists              of that name, by another origin
    PolicyUnenforceable         document path and reason
    PolicyStale                 older than what is in force, or over
    PolicyNotFound
    PolicyNotEnforced           it is kept, and packets pass interfaces without being judged by it
    PolicyUnsigned              an order nobody signed, where such are refused
  StorageError
    StateFileRefused            a file of the state directory that cannot be trusted
    SpoolFull                   no room on the file system
    SpoolCorrupt                the file's content is not what was written
    SpoolUncertain              a write or flush failed: what is on disk is not known
  PermissionDenied              the caller may not do this
  GatewayError                  the gateway cannot do what was asked of it
    AgentUnknown QueryInvalid
    RegistrationRefused         HTTP status that says why
    NotBuilt                    a feature that is planned and not there
  ModuleError
    ModuleUnknown ModuleDisabled ModuleStartFailed ModuleStopTimeout
    WouldCutControl             a gateway's order that would end the link it came over
"""

from __future__ import annotations

import os


class AegisError(Exception):
    """Base of all. `code` is stable and snake_case; `hint` says what to do about it."""

    code = "aegis_error"
    retryable = False

    def __init__(self, text: str, *, hint: str | None = None) -> None:
        super().__init__(" ".join(text.split()))
        self.hint = hint


class ConfigError(AegisError):
    """One or more configuration problems; `problems` holds (option path, origin, text) of each."""

    code = "config_invalid"

    def __init__(self, problems: tuple[tuple[str, str, str], ...]) -> None:
        super().__init__(
            "; ".join(f"{origin}: {path}: {text}" for path, origin, text in problems),
            hint="aegis config check names each problem",
        )
        self.problems = problems


class RestartNeeded(ConfigError):
    """Options that are good, and taken at a start only, so that no order can change them."""

    code = "restart_needed"

    def __init__(self, problems: tuple[tuple[str, str, str], ...]) -> None:
        super().__init__(problems)
        self.hint = "set it in agent.toml, then restart the agent"


class HostError(AegisError):
    """Something read from or done on the host (/proc, /sys, netlink, namespaces) failed; `errno` or 0."""

    code = "host_error"

    def __init__(self, text: str, *, errno: int = 0, hint: str | None = None) -> None:
        super().__init__(text, hint=hint)
        self.errno = errno


class KernelError(AegisError):
    """A bpf(2) operation failed: `errno`, the operation's name and the object it was about."""

    code = "kernel_error"

    def __init__(
        self,
        operation: str,
        subject: str,
        number: int = 0,
        *,
        detail: str = "",
        hint: str | None = None,
    ) -> None:
        reason = os.strerror(number) if number else detail
        tail = f": {detail}" if number and detail else ""
        super().__init__(f"{operation} {subject}: {reason}{tail}", hint=hint)
        self.operation = operation
        self.subject = subject
        self.errno = number


class FeatureUnsupported(KernelError):
    """The kernel lacks a feature that was tried."""

    code = "feature_unsupported"


class CapabilityMissing(KernelError):
    """The process may not do this; the hint names the capability."""

    code = "missing_capability"


class LoadRejected(KernelError):
    """The verifier refused a program; `log` holds the end of what it said."""

    code = "load_rejected"
    log = ""


class AttachFailed(KernelError):
    """A program loaded but could not be attached."""

    code = "attach_failed"


class MapFull(KernelError):
    """A kernel table has no room left."""

    code = "map_full"


class MapAccessFailed(KernelError):
    """A kernel table could not be read or written."""

    code = "map_access_failed"


class AbiMismatch(KernelError):
    """Object, header and compiled reader do not agree on a layout, or a pinned map has another shape."""

    code = "abi_mismatch"


class ShapeMismatch(AbiMismatch):
    """A table that was to be shared, mostly a pinned one, has another shape; the object itself is sound."""


class ProtocolError(AegisError):
    """A message broke the rules of its channel."""

    code = "protocol_error"


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules."""

    code = "remote_protocol_error"


class EnvelopeInvalid(RemoteProtocolError):
    """A message could not be read: not JSON, wrong shape or unknown verb."""

    code = "envelope_invalid"


class SealInvalid(RemoteProtocolError):
    """A sealed message did not open: another key, another nonce, or changed on the way."""

    code = "seal_invalid"


class OrderUnknown(RemoteProtocolError):
    """An order that nobody takes here."""

    code = "order_unknown"


class OrderInvalid(RemoteProtocolError):
    """An order with a member missing, or of another type."""

    code = "order_invalid"


class SessionMisused(ProtocolError):
    """Our own side asked a session for something that its state does not allow."""

    code = "session_misused"


class TransportError(AegisError):
    """A connection could not be made or kept."""

    code = "transport_error"
    retryable = True

    def __init__(self, text: str, *, hint: str | None = None, retry_s: float | None = None) -> None:
        super().__init__(text, hint=hint)
        self.retry_s = retry_s


class ConnectFailed(TransportError):
    """Nobody answered at the address."""

    code = "connect_failed"


class ConnectionLost(TransportError):
    """The peer went away before the end."""

    code = "connection_lost"


class GatewayRefused(TransportError):
    """A peer answered and will not have this agent, or is none this agent may trust."""

    code = "gateway_refused"


class PolicyError(AegisError):
    """A policy document could not be taken; `path` points into it, `line` is 1-based or None."""

    code = "policy_error"

    def __init__(self, path: str, reason: str, *, line: int | None = None, hint: str | None = None) -> None:
        where = path if line is None else f"{path} (line {line})"
        super().__init__(f"{where}: {reason}", hint=hint)
        self.path = path
        self.reason = reason
        self.line = line


class PolicyInvalid(PolicyError):
    """The document is not what the language allows."""

    code = "policy_invalid"


class PolicyExists(PolicyInvalid):
    """A policy of this name is in force and somebody else's: `policy_exists_local` or `policy_exists_gateway`."""

    def __init__(self, path: str, reason: str, *, held_by: str, hint: str | None = None) -> None:
        super().__init__(path, reason, hint=hint)
        self.code = f"policy_exists_{held_by}"


class PolicyUnenforceable(PolicyError):
    """The document is valid but cannot be enforced exactly as written, so none of it is."""

    code = "policy_unenforceable"


class PolicyStale(PolicyError):
    """The document is an older version than the policy of its name in force, or has expired."""

    code = "policy_stale"


class PolicyOnTrial(PolicyError):
    """A policy is on trial: until it is confirmed or undone, nothing else is changed."""

    code = "policy_on_trial"


class PolicyNotFound(PolicyError):
    """No policy of that name is applied."""

    code = "policy_not_found"


class PolicyNotEnforced(PolicyError):
    """A policy is kept, and judges no packet, or not those of every interface: `policy_not_enforced`, `policy_partly_enforced`.

    `policy` is the applied one as the answer shows it; `path` is its name.
    """

    code = "policy_not_enforced"

    def __init__(
        self, path: str, reason: str, *, partly: bool, policy: dict[str, object], hint: str | None = None
    ) -> None:
        super().__init__(path, reason, hint=hint)
        self.policy = policy
        if partly:
            self.code = "policy_partly_enforced"


class PolicyUnsigned(PolicyError):
    """An order that nobody signed, where such orders are refused; `path` is the order's name."""

    code = "policy_unsigned"


class StorageError(AegisError):
    """State could not be written or read back."""

    code = "storage_error"


class StateFileRefused(StorageError):
    """A file of the state directory has another owner, mode, kind or content than what is kept there; it is named."""

    code = "state_file_refused"


class SpoolFull(StorageError):
    """The file system has no room; nothing of the attempt is kept, what was there before is."""

    code = "spool_full"


class SpoolCorrupt(StorageError):
    """A file of stored blocks is no such file, or damaged."""

    code = "spool_corrupt"


class SpoolUncertain(StorageError):
    """A write or a flush failed: the file may or may not hold it, and is not to be written again."""

    code = "spool_uncertain"


class PermissionDenied(AegisError):
    """The caller may not do this."""

    code = "permission_denied"


class GatewayError(AegisError):
    """The gateway could not do what was asked of it."""

    code = "gateway_error"


class AgentUnknown(GatewayError):
    """No agent of that uid is registered."""

    code = "agent_unknown"


class QueryInvalid(GatewayError):
    """A filter or a cursor that means nothing."""

    code = "query_invalid"


class RegistrationRefused(GatewayError):
    """A registration was not taken; `status` is the HTTP status that says why."""

    code = "registration_refused"

    def __init__(self, text: str, *, status: int, hint: str | None = None) -> None:
        super().__init__(text, hint=hint)
        self.status = status


class NotBuilt(GatewayError):
    """A feature that is named in the documents and not built yet."""

    code = "not_built"


class ModuleError(AegisError):
    """A module could not do what was asked of it."""

    code = "module_error"


class ModuleUnknown(ModuleError):
    """No module of that name was found."""

    code = "module_unknown"


class ModuleDisabled(ModuleError):
    """An order to start a module that is disabled."""

    code = "module_disabled"


class ModuleStartFailed(ModuleError):
    """A module ended before it was ready."""

    code = "module_start_failed"


class ModuleStopTimeout(ModuleError):
    """A module did not stop before its deadline."""

    code = "module_stop_timeout"


class WouldCutControl(ModuleError):
    """A gateway ordered to end the very link its orders come over."""

    code = "would_cut_control"
