"""Bugs the kernel's search could have, to be planted: each in a copy of its header, compiled into the probe object."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADER = "kern/verdict.bpf.h"

# By name: what stands in the header once, and what instead.
MUTANTS: dict[str, tuple[str, str]] = {
    "defaults ignored": (
        "found = aegis_better(best, aegis_image_u64(image, part + 24 + (where >> 25 & 1) * 8));",
        "found = best & AEGIS_PAIR_MASK;",
    ),
    "defaults of the other direction": ("(where >> 25 & 1) * 8", "(~where >> 25 & 1) * 8"),
    "subjects ignored": ("return mask >> (word & 63) & 1 &&", "return (mask | 15) >> (word & 63) & 1 &&"),
    "what has ended goes on": (
        "deadline > (where >> AEGIS_WHERE_EXPIRED & 0xff)",
        "deadline >= (where >> AEGIS_WHERE_EXPIRED & 0xff)",
    ),
    "name rules of the other family": ("if (family && family !=", "if (family && family =="),
    "one name only": ("for (int slot = 0; slot < 4; slot++)", "for (int slot = 0; slot < 1; slot++)"),
    "one rule about a name only": ("if (step >= (list & 0xffffffff))", "if (step >= 1)"),
    "one part only": ("if (part >= parts)", "if (part >= 1)"),
    "lower half of IPv6 ignored": (
        "beyond = aegis_borrow(high, aegis_image_u64(image, first + skip), beyond);",
        "beyond = aegis_borrow(high, aegis_image_u64(image, first + skip), 0);",
    ),
    "walk stops at the first class": (
        "if (aegis_better(best, above & AEGIS_PAIR_MASK) == best)",
        "if (above || !above)",
    ),
    "walk stops when nothing wider is first of all": (
        "if (aegis_better(best, above & AEGIS_PAIR_MASK) == best)",
        "if ((above >> AEGIS_CHOICE_BITS & AEGIS_CHOICE_NONE) >= best >> AEGIS_CHOICE_BITS)",
    ),
    "enforced and observed choices joined together": (
        "enforced ^= (enforced ^ enforced2) & -first;",
        "enforced ^= (enforced ^ enforced2) & -second;",
    ),
    "last interval of a bucket not searched": (
        "count = aegis_image_u32(image, index + 4) - begin + 1;",
        "count = aegis_image_u32(image, index + 4) - begin;",
    ),
    "index by one bit more": ("((32 - index) & 63)", "((31 - index) & 63)"),
    "cells begin one late": (
        "(key - (aegis_image_u64(image, first + skip) >> AEGIS_PAIR_BITS)) >> 63",
        "(key - 1 - (aegis_image_u64(image, first + skip) >> AEGIS_PAIR_BITS)) >> 63",
    ),
    "intervals begin one late": (
        "(address - aegis_image_u32(image, first + skip)) >> 63",
        "(address - 1 - aegis_image_u32(image, first + skip)) >> 63",
    ),
    "two classes outward only": ("depth < AEGIS_IMAGE_DEPTH", "depth < 2"),
    "fragments have the key of the whole": (
        "__u64 key = where & 0x3ffffff;",
        "__u64 key = where & 0x2ffffff;",
    ),
    "all denials enforce": (
        "decision |= (enforced >> 1) + 1 |",
        "decision |= (any & 1) << AEGIS_DECISION_ENFORCED_DENIES | (enforced >> 1) + 1 |",
    ),
}


def planted_object(name: str) -> bytes:
    """The probe object with this bug; compiled where it is not of these sources yet."""
    right, wrong = MUTANTS[name]
    text = (ROOT / "bpf/include" / HEADER).read_text()
    flat = " ".join(text.split())
    assert flat.count(right) == 1, f"{right} stands {flat.count(right)} times"
    inputs = hashlib.sha256(repr((right, wrong)).encode())
    for path in sorted((ROOT / "bpf").rglob("*.[ch]")):
        inputs.update(path.read_bytes())
    directory = ROOT / "build/planted" / inputs.hexdigest()[:16]
    built = directory / "probe_policy.bpf.o"
    if not built.exists():
        shutil.copytree(ROOT / "bpf/include", directory / "include", dirs_exist_ok=True)
        # Comments are not code, and a statement may go over lines.
        (directory / "include" / HEADER).write_text(_replaced(text, right, wrong))
        arch = {"x86_64": "x86", "aarch64": "arm64"}[platform.machine()]
        clang = shutil.which("clang-19") or "clang"
        flags = [
            "-target",
            "bpf",
            "-mcpu=v3",
            "-g",
            "-O2",
            f"-D__TARGET_ARCH_{arch}",
            f"-I{directory / 'include'}",
        ]
        multiarch = Path("/usr/include") / f"{platform.machine()}-linux-gnu"
        if multiarch.is_dir():
            flags += ["-idirafter", str(multiarch)]
        fresh = built.with_suffix(".new")
        source = ROOT / "bpf/src/probe_policy.bpf.c"
        subprocess.run([clang, *flags, "-c", str(source), "-o", str(fresh)], check=True)
        fresh.replace(built)
    return built.read_bytes()


def _replaced(text: str, right: str, wrong: str) -> str:
    """`text` with `wrong` for `right`, which may be broken over lines there."""
    words = right.split()
    at = text.find(words[0])
    while at >= 0:
        end, matched = at, True
        for word in words:
            while text[end].isspace():
                end += 1
            if not text.startswith(word, end):
                matched = False
                break
            end += len(word)
        if matched:
            return text[:at] + wrong + text[end:]
        at = text.find(words[0], at + 1)
    raise AssertionError(right)
