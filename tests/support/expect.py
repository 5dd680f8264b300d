"""Skip by probe, fail by promise.

A test that needs a feature of the host skips with the sentence of the probe that tried it. Where the run promised the
feature (`AEGIS_EXPECT=bpf,tcx,cgroup`), the same sentence fails the test, so that a green run cannot be an empty one.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile

import pytest

VARIABLE = "AEGIS_EXPECT"


def promised() -> frozenset[str]:
    """Features the environment says are here."""
    return frozenset(filter(None, os.environ.get(VARIABLE, "").replace(" ", "").split(",")))


def _root() -> str | None:
    return None if os.geteuid() == 0 else f"runs as uid {os.geteuid()}, root is needed"


def _nft() -> str | None:
    """The judge of enforcement tests: nftables by its own tool, tried in a network namespace of its own."""
    tool = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if tool is None:
        return "nft is not installed (Debian package nftables)"
    script = (
        "add table inet probe; add chain inet probe c; add rule inet probe c ct state established counter"
    )
    tried = subprocess.run(["unshare", "-n", tool, script], capture_output=True, text=True, check=False)
    return (
        None
        if tried.returncode == 0
        else f"nft in a new namespace: {tried.stderr.strip() or tried.returncode}"
    )


def _btf() -> str | None:
    path = "/sys/kernel/btf/vmlinux"
    return None if os.access(path, os.R_OK) else f"{path} cannot be read"


def _perf() -> str | None:
    """The kernel's own counts of its events (tests.support.kernel_counts)."""
    from tests.support.kernel_counts import counting

    try:
        with counting() as counts:
            counts.read()
    except (OSError, KeyError) as error:
        return f"events cannot be counted: {error}"
    return None


def _strace() -> str | None:
    """System calls that fail or kill at the N-th call."""
    tool = shutil.which("strace")
    if tool is None:
        return "strace is not installed (Debian package strace)"
    command = [tool, "-qq", "-o", os.devnull, "-e", "inject=getpid:error=EIO", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"strace cannot inject: {tried.stderr.strip()}"


def _ext4_loop() -> str | None:
    """A file system of one's own on a loop device, in a mount namespace of its own."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if shutil.which("mkfs.ext4", path=path) is None:
        return "mkfs.ext4 is not installed (Debian package e2fsprogs)"
    script = (
        "set -e; truncate -s 16M disk; mkfs.ext4 -q -F disk; mkdir top; mount -o loop disk top; umount top"
    )
    with tempfile.TemporaryDirectory(prefix="aegis-probe-") as directory:
        command = ["unshare", "-m", "sh", "-c", script]
        tried = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=directory,
            env={**os.environ, "PATH": path},
        )
    return None if tried.returncode == 0 else f"ext4 on a loop device: {tried.stderr.strip()}"


_OWN = {"root": _root, "strace": _strace, "ext4_loop": _ext4_loop, "nft": _nft, "btf": _btf, "perf": _perf}


@functools.cache
def _kernel() -> dict[str, tuple[str, str]]:
    """Name to (state, reason) of everything the kernel room probes."""
    from aegis.kernel import features

    return {feature.name: (feature.state, feature.reason) for feature in features.probe_all()}


@functools.cache
def missing(feature: str) -> str | None:
    """Why the feature cannot be used here, or None when it can."""
    if feature in _OWN:
        return _OWN[feature]()
    found = _kernel()
    if feature not in found:
        known = ", ".join(sorted({*found, *_OWN}))
        raise LookupError(f"no probe is called {feature!r}; there are {known}")
    state, reason = found[feature]
    return reason or state if state == "missing" else None


def require(*features: str) -> None:
    """Skip the running test, or fail it when the feature was promised."""
    for feature in features:
        reason = missing(feature)
        if reason is None:
            continue
        sentence = f"{feature}: {reason}"
        if feature in promised():
            pytest.fail(f"{sentence} (promised by {VARIABLE})", pytrace=False)
        pytest.skip(sentence)
