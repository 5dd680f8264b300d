"""Every error of Aegis, as one tree.

AegisError                      code (snake_case, stable), retryable, hint; str() is one line
  ConfigError                   option path and origin; all reported at once; exit 78
  HostError                     errno
  KernelError                   errno, operation, object
    FeatureUnsupported CapabilityMissing LoadRejected AttachFailed MapFull MapAccessFailed AbiMismatch
      ShapeMismatch             of a shared or pinned table
  ProtocolError
    RemoteProtocolError
      EnvelopeInvalid           a message on the control socket that cannot be read
  TransportError                retryable
    ConnectFailed ConnectionLost
  PolicyError
    PolicyInvalid               document path and reason
    PolicyUnenforceable         document path and reason
    PolicyNotFound
  StorageError
  PermissionDenied              the caller may not do this
  ModuleError
    ModuleUnknown ModuleStartFailed ModuleStopTimeout
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


class TransportError(AegisError):
    """A connection could not be made or kept."""

    code = "transport_error"
    retryable = True


class ConnectFailed(TransportError):
    """Nobody answered at the address."""

    code = "connect_failed"


class ConnectionLost(TransportError):
    """The peer went away before the end."""

    code = "connection_lost"


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


class PolicyUnenforceable(PolicyError):
    """The document is valid but cannot be enforced exactly as written, so none of it is."""

    code = "policy_unenforceable"


class PolicyNotFound(PolicyError):
    """No policy of that name is applied."""

    code = "policy_not_found"


class StorageError(AegisError):
    """State could not be written or read back."""

    code = "storage_error"


class PermissionDenied(AegisError):
    """The caller may not do this."""

    code = "permission_denied"


class ModuleError(AegisError):
    """A module could not do what was asked of it."""

    code = "module_error"


class ModuleUnknown(ModuleError):
    """No module of that name was found."""

    code = "module_unknown"


class ModuleStartFailed(ModuleError):
    """A module ended before it was ready."""

    code = "module_start_failed"


class ModuleStopTimeout(ModuleError):
    """A module did not stop before its deadline."""

    code = "module_stop_timeout"
