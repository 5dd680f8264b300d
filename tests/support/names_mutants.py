"""Bugs a reader of DNS answers could have, planted in the text of bpf/src/names*.bpf.c and compiled anew."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = "names*.bpf.c"
_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}

MUTANTS: dict[str, tuple[str, str]] = {
    "letters keep their case": ("return word | upper >> 2;", "return word;"),
    "bytes from @ on count as letters": ("(0x80 - 'A')", "(0x80 - '@')"),
    "pointers lead anywhere before the end": (
        "target < AEGIS_DNS_HEADER || target >= walk->limit",
        "target < AEGIS_DNS_HEADER || target >= walk->length",
    ),
    "pointers lead into the header": ("target < AEGIS_DNS_HEADER || ", ""),
    "names of 256 bytes": ("walk->bytes > AEGIS_NAME_BYTES", "walk->bytes > AEGIS_NAME_BYTES + 1"),
    "names of 254 bytes": ("walk->bytes > AEGIS_NAME_BYTES", "walk->bytes >= AEGIS_NAME_BYTES"),
    "labels of 64 bytes": ("if (size > 63 ||", "if (size > 64 ||"),
    "the first labels make the name": (
        "hash = aegis_name_mix(hash, aegis_name_word(walk, at, size, from));",
        "hash = walk->count ? hash : aegis_name_mix(hash, aegis_name_word(walk, at, size, from));",
    ),
    "steps are not counted": ("    walk->steps--;\n", ""),
    "owners are not compared": ("if (walk->hash != walk->expected)", "if (!walk->hash && walk->expected)"),
    "aliases behind addresses": ("        if (number)\n            return AEGIS_NAME_FOREIGN;\n", ""),
    "an alias may be shorter than its data": ("if (walk->end != end)", "if (walk->end > end)"),
    "an alias may be longer than its data": ("if (walk->end != end)", "if (walk->end < end)"),
    "the TTL of aliases is forgotten": ("if (ttl > walk->ttl)", "if (ttl > AEGIS_NAME_MOST_TTL_S)"),
    "a TTL with its highest bit": ("if (ttl >> 31)", "if (0)"),
    "the class of records": ("if (record->class != bpf_htons(AEGIS_DNS_IN))", "if (0)"),
    "data of any length": ("if (size != (type == AEGIS_DNS_A ? 4 : 16))", "if (0)"),
    "data past the end": ("if (end > walk->length)\n        return AEGIS_NAME_MALFORMED;", ""),
    "what was right before the mistake": (
        "        if (error != AEGIS_NAME_FINE)\n            return error;\n    }\n    if (!walk->found)",
        "        if (error != AEGIS_NAME_FINE)\n            break;\n    }\n    if (!walk->found)",
    ),
    "the local host": ("address >> 24 == 127 || ", ""),
    "the local link": ("address >> 16 == 0xa9fe || ", ""),
    "groups": ("address >> 28 >= 0xe", "address >> 28 >= 0xf"),
    "IPv6's local link": ("high >> 54 == 0x3fa || ", ""),
    "the metadata service": ("address == 0x646464c8 || ", ""),
    "NAT64": ("low >> 32 || aegis_name_forbids_ipv4(low)", "low >> 32"),
    "IPv4 as IPv6": ("if (!high && low >> 32 == 0xffff) /*", "if (0) /*"),
    "addresses of the other type": ("    if (type != walk->type)\n        return AEGIS_NAME_FINE;\n", ""),
    "33 addresses": ("number >= AEGIS_NAME_MOST_ADDRESSES)\n        return", "number > AEGIS_NAME_MOST_ADDRESSES)\n        return"),
    "63 records": ("if (records > AEGIS_NAME_MOST_RECORDS)", "if (records >= AEGIS_NAME_MOST_RECORDS)"),
    "queries are answers": ("(header->flags & 0xf8) != 0x80", "(header->flags & 0x78) != 0"),
    "any opcode": ("(header->flags & 0xf8) != 0x80", "(header->flags & 0x80) != 0x80"),
    "two questions": ("(header->flags & 0xf8) != 0x80 || header->questions != bpf_htons(1)", "(header->flags & 0xf8) != 0x80"),
    "the name asked for": (" ||\n        walk->hash != question->name)", ")"),
    "the type asked for": ("bpf_ntohs(asked->type) != question->type ||", ""),
    "truncated answers": ("if (header->flags & 0x02)", "if (0)"),
    "answers that say no": ("if (header->code & 0x0f)", "if (0)"),
    "an answer is believed twice": (
        "if (bpf_map_delete_elem(&aegis_name_questions, &walk->key)) /*",
        "if (!bpf_map_lookup_elem(&aegis_name_questions, &walk->key)) /*",
    ),
    "any server": ("if (!aegis_name_has_resolver(walk->key.server))", "if (0)"),
    "any port": ("walk->key.port = how & 1 ? ends[1] : ends[0];", "walk->key.port = 0;"),
    "any id": ("walk->key.id = header->id;", "walk->key.id = 0;"),
    "the other protocol": ("walk->key.protocol = how >> 8;", "walk->key.protocol = AEGIS_PROTO_UDP;"),
}  # fmt: skip


_STAYS = """\
    size = next ? *next : aegis_name_other(walk->state, label);
    if (!(size % AEGIS_NAME_STATES))
        return 1;
    walk->state = size;
"""

# What resolve-then-connect must show by itself: allowed connections refused, and others let through.
REFUSING: dict[str, tuple[str, str]] = {
    "the last address is left out": ("if (number >= walk->found)", "if (number + 1 >= walk->found)"),
    "aliases are not followed": ("aegis_name_expect(walk, at, number);", ""),
    "letters keep their case": ("return word | upper >> 2;", "return word;"),
    "names are over when they are learnt": ("now + walk->ttls[number] + AEGIS_NAME_GRACE_S", "now"),
}
PASSING: dict[str, tuple[str, str]] = {
    "every name is of interest": (
        "question.classes[0] = aegis_name_class(roots);",
        "question.classes[0] = 1;",
    ),
    "what is below a name is as well": (
        "    walk->state = next ? *next : aegis_name_other(walk->state, label);\n",
        _STAYS,
    ),
}


def compiled(name: str, mutants: Mapping[str, tuple[str, str]] = MUTANTS) -> bytes:
    """Object `probe_names` with this bug. Skips the test where there is no compiler for it."""
    compiler = shutil.which("clang-19") or shutil.which("clang")
    if compiler is None:
        pytest.skip("clang is not installed")
    texts = {path.name: path.read_text() for path in sorted((ROOT / "bpf/src").glob(SOURCES))}
    changes = [mutants[name]]
    if name == "any id":  # on both ways
        changes.append(
            ("walk->key.id = ((const struct aegis_dns_header *)walk->message)->id;", changes[0][1])
        )
    for old, new in changes:
        places = [file for file, text in texts.items() for _ in range(text.count(old))]
        assert len(places) == 1, f"{name}: the text to change is there {len(places)} times"
        texts[places[0]] = texts[places[0]].replace(old, new)
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        for file, text in texts.items():
            (top / file).write_text(text)
        (top / "probe_names.bpf.c").write_text((ROOT / "bpf/src/probe_names.bpf.c").read_text())
        flags = ["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-w"]
        flags += [
            f"-D__TARGET_ARCH_{_ARCHITECTURES[platform.machine()]}",
            f"-I{ROOT / 'bpf/include'}",
            f"-I{top}",
        ]
        flags += ["-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"]
        subprocess.run(
            [compiler, *flags, "-c", str(top / "probe_names.bpf.c"), "-o", str(top / "o")], check=True
        )
        return (top / "o").read_bytes()
