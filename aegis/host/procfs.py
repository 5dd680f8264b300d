"""Reading the text files of /proc and /sys, and taking numbers out of them without trust.

What is read there is the kernel's own text on a good day. On a bad one it is a container's forgery, a newer kernel's
layout or a cut file; every reader above this one raises HostError then, and nothing else.
"""

from __future__ import annotations

import os
import re

from aegis.errors import HostError

LIMIT = 1 << 22
_LARGEST = (1 << 64) - 1
_DECIMAL = re.compile(rb"[0-9]{1,20}\.[0-9]{1,9}\Z")


def read(path: str, limit: int = LIMIT) -> bytes:
    """The whole file. HostError with errno where it cannot be read or is longer than `limit` bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A file of several records comes in pieces of a page at most, so only an empty one is the end.
            data = os.read(descriptor, 1 << 16)
            while block := os.read(descriptor, 1 << 16):
                data += block
                if len(data) > limit:
                    raise HostError(f"{path}: longer than {limit} bytes")
            return data
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failed("read", path, error) from error


def listing(path: str) -> list[str]:
    """Names in a directory. HostError with errno."""
    try:
        return os.listdir(path)
    except OSError as error:
        raise failed("list", path, error) from error


def link(path: str) -> str:
    """Where a symbolic link points; bytes that are no UTF-8 are kept as surrogates. HostError with errno."""
    try:
        return os.readlink(path)
    except OSError as error:
        raise failed("read the link", path, error) from error


def failed(verb: str, path: str, error: OSError) -> HostError:
    """The HostError that says what could not be done to `path` and why."""
    return HostError(f"{verb} {path}: {error.strerror or error}", errno=error.errno or 0)


def number(text: bytes, where: str) -> int:
    """A number of the kernel: decimal digits, at most 64 bits. HostError naming the file otherwise."""
    if text.isdigit() and len(text) <= 20 and (value := int(text)) <= _LARGEST:
        return value
    raise HostError(f"{where}: {shown(text)} is no number")


def decimal(text: bytes, where: str) -> float:
    """A number with a fraction, as /proc/loadavg has it. HostError naming the file otherwise."""
    if _DECIMAL.match(text):
        return float(text)
    raise HostError(f"{where}: {shown(text)} is no number")


def shown(text: bytes) -> str:
    """A short, printable form of hostile bytes, for a sentence."""
    return repr(bytes(text[:40]))[1:] + ("..." if len(text) > 40 else "")


def columns(line: bytes, least: int, where: str) -> list[bytes]:
    """The words of a line, at least `least` of them. HostError otherwise."""
    words = line.split()
    if len(words) < least:
        raise HostError(f"{where}: {len(words)} columns where {least} are due: {shown(line)}")
    return words


def path(text: bytes, where: str) -> str:
    """A path as the kernel wrote it. HostError where it holds a NUL, which no path can."""
    if b"\0" in text:
        raise HostError(f"{where}: {shown(text)} is no path")
    return os.fsdecode(text)


def unescape(text: bytes) -> bytes:
    r"""A path out of a mount table: `\040` and the like are the bytes they stand for."""
    if b"\\" not in text:
        return text
    return re.sub(rb"\\([0-3][0-7]{2})", lambda found: bytes([int(found[1], 8)]), text)
