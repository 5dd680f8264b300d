"""Bugs a compiler of policies could have, to be planted: the comparison with the reference must catch every one.

Those of the native compiler are planted in a copy of its source, all in one build: each stands behind a test of the
number of the bug that is on. The copy is made once for a source and kept below build/.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from aegis.kernel import policy_image
from aegis.model.policy import LOCAL, PolicySet, RankedRule
from aegis.model.policy_reference import judge

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "aegis/_native/policy_compiler.pyx"
NAME = "planted_compiler"

# By name: an expression of the source, or a whole line, and what stands there instead. `#1` is the second occurrence.
NATIVE: dict[str, tuple[tuple[str, str], ...]] = {
    "interval begins one late": (
        (
            "begin(starts, first, one.address, owner_number)",
            "begin(starts, first, one.address + (1 if one.address else 0), owner_number)",
        ),
    ),
    "interval ends one early": (("stack[held].last + 1", "stack[held].last"),),
    "last interval ends one early": (("stack[held].last < top", "stack[held].last + 1 < top"),),
    "what follows a prefix is of no class": (("stack[held - 1].owner if held else 0", "0"),),
    "nothing is around a prefix": (("stack[held - 1].owner if held else 0#1", "0"),),
    "what follows the last prefix is of no class": (("stack[held - 1].owner if held else 0#2", "0"),),
    "a prefix ends where its last address is another's": (
        ("stack[held - 1].last < one.address", "stack[held - 1].last <= one.address"),
    ),
    "except ignored": (("not exceptions", "True"),),
    "only the first exception counts": (("sorted(exceptions)", "sorted(exceptions)[:1]"),),
    "an exception at the end is left out": (("last >= end", "last > end"),),
    "exceptions inside others end them": (("last + 1 > reached", "True"),),
    "the first address after an exception lost": (("reached = last + 1", "reached = last + 2"),),
    "carving one bit too far": (
        (
            "last_of(first, bits - free - 1, bits) <= last",
            "last_of(first, bits - free - 1, bits) <= last + 1",
        ),
    ),
    "lower half of IPv6 ignored": (("<u128><uint64_t>(address & 0xFFFFFFFFFFFFFFFF)", "<u128>0"),),
    "halves of IPv6 exchanged": (
        (
            "out[each].start_high, out[each].start_low = <uint64_t>(start >> 64), <uint64_t>start",
            "out[each].start_high, out[each].start_low = <uint64_t>start, <uint64_t>(start >> 64)",
        ),
    ),
    "walk stops at the first class": (
        ("better(wider.above, (<ranks *>self.lists.at)[wider.list].best)", "NONE_PAIR"),
    ),
    "only the next wider prefix counts": (
        (
            "better(wider.above, (<ranks *>self.lists.at)[wider.list].best)",
            "(<ranks *>self.lists.at)[wider.list].best",
        ),
    ),
    "the next wider prefix does not count": (
        ("better(wider.above, (<ranks *>self.lists.at)[wider.list].best)", "wider.above"),
    ),
    "choices of wider prefixes cut at 512": (
        ("self.pair_of(wanted[at])", "self.pair_of(wanted[at]) if wanted[at] < 256 else NONE_PAIR"),
    ),
    "a rank keeps eight bits": (("value = rank << 1 | of.deny", "value = (rank & 255) << 1 | of.deny"),),
    "every rule denies": (("value = rank << 1 | of.deny", "value = rank << 1 | 1"),),
    "classes shared whatever is around them": (
        ("mixed(mixed(11, number), parent)", "mixed(11, number)"),
        ("one.parent == parent", "True"),
    ),
    "one rule of a prefix only": (("not count or wanted[count - 1] != nets[at].rank", "not count"),),
    "lists shared by both families": (("family + 1 if apart else BOTH", "BOTH"),),
    "endPort exclusive": (
        (
            "first, last = entry.first, entry.last",
            "first, last = entry.first, max(<int>entry.first, <int>entry.last - 1)",
        ),
    ),
    "ANY without SCTP": (("self.add_span(base, SCTP, first, last, made.deny)", "pass"),),
    "ANY without UDP": (("self.add_span(base, UDP, first, last, made.deny)", "pass"),),
    "fragments escape a denial": (
        (
            "self.add_span(base, entry.protocol, first, last, made.deny)",
            "self.add_span(base, entry.protocol, first, last, False)",
        ),
    ),
    "fragments allowed without all ports": (
        (
            "self.add_span(base, entry.protocol, first, last, made.deny)",
            "self.add_span(base, entry.protocol, first, last, True)",
        ),
    ),
    "fragments of a whole protocol escape": (
        (
            "self.add_span(base, protocol, 0, LAST_PORT, True)",
            "self.add_span(base, protocol, 0, LAST_PORT, False)",
        ),
    ),
    "directions exchanged": (
        ("<uint32_t>ingress << DIRECTION_SHIFT", "<uint32_t>(not ingress) << DIRECTION_SHIFT"),
    ),
    "ICMP types of the other family": (("icmp.family == wanted", "True"),),
    "ICMPv6 has ICMP's number": (("ICMP if wanted == 4 else ICMPV6", "ICMP"),),
    "ICMP code must be 0": (("first | 255", "first"),),
    "last match decides": (
        (
            "rank = (<uint32_t *>self.pool.at)[one.first + at]",
            "rank = (<uint32_t *>self.pool.at)[one.first + one.count - 1 - at]",
        ),
    ),
    "observing rules enforce": (("enforced and not of.enforced", "False"),),
    "cells beyond the last key come round": (("keys[at] > LAST_KEY", "False"),),
    "cells joined by their enforced half": (
        (
            "pair != (<uint64_t *>self.cells.at)[self.cells.used - 1] & PAIR_MASK",
            "(pair ^ (<uint64_t *>self.cells.at)[self.cells.used - 1]) & abi.AEGIS_CHOICE_NONE",
        ),
    ),
    "a cell ends one early": (("keys[count + 1] = where.last + 1", "keys[count + 1] = where.last"),),
    "index looks too far ahead": (
        (
            "starts[at + 1].start <= <u128>(bucket << (32 - bits))",
            "starts[at + 1].start <= <u128>((bucket << (32 - bits)) + 1048576)",
        ),
    ),
    "index ends one interval early": (
        (
            "out[<uint64_t>1 << bits] = one.v4_count - 1",
            "out[<uint64_t>1 << bits] = max(one.v4_count, 2) - 2",
        ),
    ),
    "defaults enforce whatever the mode": (("choice if enforced else abi.AEGIS_CHOICE_NONE", "choice"),),
    "defaults of ingress are of egress": (
        (
            "cdef uint64_t *pair = &(<part *>self.parts.at)[number].defaults[ingress]",
            "pair = &(<part *>self.parts.at)[number].defaults[0]",
        ),
    ),
    "the last default decides": (("better(pair[0], made)", "made"),),
    "a name has its first selector only": (
        (
            "by_selector.get(selector, ())",
            "by_selector.get(selector, ()) if selector == selectors[0] else ()",
        ),
    ),
    "name rules are for everybody": (("<uint64_t>directory[number]", "<uint64_t>directory[0]"),),
    "name rules of the other family": (("family + 1 if apart else 0", "2 - family if apart else 0"),),
    "only the first rule about a name": (("count = <uint32_t>len(wanted)", "count = 1"),),
}


def _ranked_by(key: Callable[..., Any]) -> Callable[[PolicySet], tuple[RankedRule, ...]]:
    """`PolicySet.ranked` with another order; defaults stay where they are."""
    whole = PolicySet.ranked

    def ranked(policies: PolicySet) -> tuple[RankedRule, ...]:
        rules = [
            (key(policy, rule, place), RankedRule(policy=policy, rule=rule))
            for policy in policies
            for place, rule in enumerate(policy.rules)
        ]
        defaults = [each for each in whole(policies) if each.default]
        return (*(each for _, each in sorted(rules, key=lambda pair: pair[0])), *defaults)

    return ranked


def _parts_but(
    change: Callable[[tuple[int, int]], tuple[int, int]],
) -> Callable[..., dict[str, tuple[int, int]]]:
    whole = policy_image._parts
    return lambda *arguments: {name: change(part) for name, part in whole(*arguments).items()}


# By name: where it is patched, and by what.
PYTHON: dict[str, tuple[object, str, Any]] = {
    "priority reversed": (
        PolicySet,
        "ranked",
        _ranked_by(lambda policy, rule, place: (-policy.priority, not rule.deny, policy.name, place)),
    ),
    "allow before deny": (
        PolicySet,
        "ranked",
        _ranked_by(lambda policy, rule, place: (policy.priority, rule.deny, policy.name, place)),
    ),
    "names ignored in ties": (
        PolicySet,
        "ranked",
        _ranked_by(
            lambda policy, rule, place: (
                policy.priority,
                not rule.deny,
                policy.origin != LOCAL,
                place,
                policy.name,
            )
        ),
    ),
    "origin ignored in ties": (
        PolicySet,
        "ranked",
        _ranked_by(lambda policy, rule, place: (policy.priority, not rule.deny, policy.name, place)),
    ),
    "subjects ignored": (policy_image, "_parts", _parts_but(lambda part: (0, part[1]))),
    "subjects numbered one off": (
        policy_image,
        "_parts",
        _parts_but(lambda part: (part[0] + 1 if part[0] else 0, part[1])),
    ),
    "expiry ignored": (policy_image, "_parts", _parts_but(lambda part: (part[0], 0))),
    "expiry numbered one off": (
        policy_image,
        "_parts",
        _parts_but(lambda part: (part[0], part[1] - 1 if part[1] > 1 else part[1])),
    ),
}
MUTANTS = (*NATIVE, *PYTHON)


def planted_source() -> str:
    """The compiler's source with every bug of NATIVE in it, off: one is on while PLANTED is its number, from 1."""
    text = SOURCE.read_text()
    edits: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for number, pairs in enumerate(NATIVE.values(), 1):
        for right, wrong in pairs:
            wanted, _, place = right.partition("#")
            at = -1
            for _ in range(int(place or 0) + 1):
                at = text.index(wanted, at + 1)
            edits.setdefault((at, at + len(wanted)), []).append((number, wrong))
    for (start, end), bugs in sorted(edits.items(), reverse=True):
        text = text[:start] + _guarded(text, start, end, bugs) + text[end:]
    head, _, rest = text.partition("cdef enum:")
    return f"{head}cdef int PLANTED = 0\n\n\ndef plant(int number):\n    global PLANTED\n    PLANTED = number\n\n\ncdef enum:{rest}"


def _guarded(text: str, start: int, end: int, bugs: list[tuple[int, str]]) -> str:
    """The right text with the wrong ones before it, as statements where it is a whole line, else as an expression."""
    right = text[start:end]
    line = text.rfind("\n", 0, start) + 1
    margin = text[line:start]
    if margin.strip() or text[end] != "\n":
        for number, wrong in bugs:
            right = f"(({wrong}) if PLANTED == {number} else ({right}))"
        return right
    if right.startswith("cdef "):  # stays, and is assigned to again
        return right + "".join(
            f"\n{margin}if PLANTED == {number}:\n{margin}    {wrong}" for number, wrong in bugs
        )
    chain = "".join(f"if PLANTED == {number}:\n{margin}    {wrong}\n{margin}el" for number, wrong in bugs)
    return f"{chain}se:\n{margin}    {right}"


@cache
def planted_compiler() -> Any:
    """The compiler with every bug in it, off. Builds it where it is not of this source yet."""
    source = planted_source()
    inputs = hashlib.sha256(source.encode())
    for header in sorted((ROOT / "bpf/include/aegis").glob("*.h")):
        inputs.update(header.read_bytes())
    directory = ROOT / "build/planted" / inputs.hexdigest()[:16]
    built = directory / f"{NAME}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not built.exists():
        directory.mkdir(parents=True, exist_ok=True)
        pyx = directory / f"{NAME}.pyx"
        pyx.write_text(source)
        made = pyx.with_suffix(".c")
        cython = [sys.executable, "-m", "cython", "-3", "-I", str(ROOT), str(pyx), "-o", str(made)]
        subprocess.run(cython, check=True, cwd=ROOT)
        python = sysconfig.get_paths()["include"]
        fresh = built.with_suffix(".new")
        compile_ = ["cc", "-O1", "-w", "-shared", "-fPIC", f"-I{python}", "-Ibpf/include", "-Iaegis/_native"]
        subprocess.run([*compile_, str(made), "-o", str(fresh)], check=True, cwd=ROOT)
        fresh.replace(built)
    spec = importlib.util.spec_from_file_location(NAME, built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The compiler with this bug."""
    if name in PYTHON:
        target, attribute, bug = PYTHON[name]
        with mock.patch.object(target, attribute, bug):
            yield
        return
    compiler = planted_compiler()
    compiler.plant(list(NATIVE).index(name) + 1)
    try:
        with mock.patch.multiple(
            policy_image, Compiler=compiler.Compiler, TooDeep=compiler.TooDeep, TooMany=compiler.TooMany
        ):
            yield
    finally:
        compiler.plant(0)


def expected(policies: PolicySet, packets: list[Any]) -> list[tuple[Any, ...]]:
    """What the reference says of each packet, comparable with `found`."""
    outcomes = [judge(policies, packet) for packet in packets]
    return [
        (
            each.verdict,
            (each.enforced.policy, each.enforced.rule) if each.enforced else None,
            (each.any.policy, each.any.rule) if each.any else None,
        )
        for each in outcomes
    ]


def found(rules: tuple[RankedRule, ...], judgements: list[Any]) -> list[tuple[Any, ...]]:
    """What an image or the kernel says, by the same names."""

    def name(rank: int | None) -> tuple[str, str] | None:
        return None if rank is None else (rules[rank].policy.name, rules[rank].rule.path)

    return [(each.verdict, name(each.enforced), name(each.any)) for each in judgements]
