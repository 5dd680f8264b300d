"""The exit codes of the tool, and which failure has which."""

from __future__ import annotations

from aegis.errors import (
    AegisError,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    ModuleUnknown,
    PermissionDenied,
    PolicyError,
    PolicyNotFound,
)

EXIT_FAILED = 1
EXIT_UNREACHABLE = 3
EXIT_REFUSED = 4
EXIT_NOT_FOUND = 5
EXIT_CHECK_FAILED = 6
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

# The most specific class decides; the order matters.
_EXIT_BY_ERROR: tuple[tuple[type[AegisError], int], ...] = (
    (ConnectFailed, EXIT_UNREACHABLE),
    (ConnectionLost, EXIT_UNREACHABLE),
    (PermissionDenied, EXIT_REFUSED),
    (PolicyNotFound, EXIT_NOT_FOUND),
    (ModuleUnknown, EXIT_NOT_FOUND),
    (PolicyError, EXIT_CHECK_FAILED),
    (ConfigError, EXIT_CHECK_FAILED),
)

# The agent's answers carry a code, not a class.
_EXIT_BY_CODE = {
    "permission_denied": EXIT_REFUSED,
    "missing_capability": EXIT_REFUSED,
    "policy_not_found": EXIT_NOT_FOUND,
    "module_unknown": EXIT_NOT_FOUND,
    "agent_unknown": EXIT_NOT_FOUND,
    "message_unknown": EXIT_NOT_FOUND,
    "not_found": EXIT_NOT_FOUND,
    "agent_away": EXIT_UNREACHABLE,
    "no_answer": EXIT_TIMEOUT,
    "credential_missing": EXIT_REFUSED,
    "credential_invalid": EXIT_REFUSED,
    "policy_unsigned": EXIT_REFUSED,
    "would_cut_control": EXIT_REFUSED,
    "policy_invalid": EXIT_CHECK_FAILED,
    "policy_exists_local": EXIT_REFUSED,
    "policy_exists_gateway": EXIT_REFUSED,
    "policy_unenforceable": EXIT_CHECK_FAILED,
    "policy_stale": EXIT_CHECK_FAILED,
    "policy_on_trial": EXIT_CHECK_FAILED,
    "config_invalid": EXIT_CHECK_FAILED,
    "restart_needed": EXIT_CHECK_FAILED,
}


def exit_code_of(error: AegisError) -> int:
    """The exit code that tells a script what kind of failure this was."""
    for kind, number in _EXIT_BY_ERROR:
        if isinstance(error, kind):
            return number
    return exit_code_of_code(error.code)


def exit_code_of_code(code: str) -> int:
    """The same of an answer, which has a code only."""
    return _EXIT_BY_CODE.get(code, EXIT_FAILED)
