"""Events, flows and samples by chance: from a seed, or from hypothesis (`st.randoms(use_true_random=False)`)."""

from __future__ import annotations

import random
from typing import Any

import cbor2

from aegis.model.absent import Absent
from aegis.model.event import (
    AcceptEvent,
    ConnectEvent,
    Event,
    ExecEvent,
    ExitEvent,
    ListenEvent,
    LossEvent,
    VerdictEvent,
)
from aegis.model.flow import FlowState, Verdict
from aegis.model.net import MAPPED, Direction
from aegis.model.process import Ancestor, Cgroup, Owner, OwnerLabel, Process
from aegis.model.records import process_fields
from aegis.model.sample import Sample

# What is hard to put into JSON: quotes, controls, sequences cut short, overlong, surrogates, beyond the last one.
HARD = (
    b"", b"a", b'"', b"\\", b"\x00", b"\x1f", b"\x7f", b"\n\t\r\b\f", b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80",
    b"\xff", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80",
    b"\xf0\x80\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xee\x80\x80", b"\xef\xbf\xbf", b"/usr/bin/env", b"\xe2\x80\xa8", b"\\xff",
)  # fmt: skip
BASE_NS = 1_790_000_000_123_456_789


def chunk(rng: random.Random, most: int = 6) -> bytes:
    return b"".join(rng.choice(HARD) for _ in range(rng.randrange(most)))


def text(rng: random.Random) -> str:
    return chunk(rng).decode(errors="replace")


def absent(rng: random.Random, value: Any) -> Any:
    return Absent(text(rng) or "why") if rng.randrange(4) == 0 else value


def number(rng: random.Random, bits: int = 64) -> int:
    return rng.getrandbits(rng.randrange(1, bits + 1))


def address(rng: random.Random) -> bytes:
    """Mapped, all zeros, with runs of zeros of every length and place, or anything."""
    kind = rng.randrange(4)
    if kind == 0:
        return MAPPED + bytes(rng.getrandbits(8) for _ in range(4))
    if kind == 1:
        return bytes(8) + bytes(rng.choice((0, 0xFF, 1)) for _ in range(8))
    if kind == 2:
        return bytes(byte for _ in range(8) for byte in rng.choice(((0, 0), (0, 1), (0x0A, 0xBC), (0x20, 0))))
    return bytes(rng.getrandbits(8) for _ in range(16))


def process(rng: random.Random) -> Process:
    args = b"".join(chunk(rng).replace(b"\0", b"") + b"\0" for _ in range(rng.randrange(5)))
    if rng.randrange(4) == 0:
        args = args[:-1] + chunk(rng, 3)
    path = "/" + text(rng)
    return Process(
        pid=number(rng, 22),
        start_ns=number(rng, 63),
        ppid=absent(rng, number(rng, 22)),
        uid=number(rng, 32),
        gid=absent(rng, number(rng, 32)),
        comm=absent(rng, chunk(rng, 4)),
        exe=absent(rng, b"/" + chunk(rng)),
        exe_deleted=rng.random() < 0.5,
        exe_truncated=rng.random() < 0.5,
        args=absent(rng, args),
        args_total=len(args) + rng.choice((0, 0, 7, 70_000)),
        cwd=absent(rng, chunk(rng)),
        cgroup=absent(
            rng, Cgroup(id=number(rng, 64), path=path, unit=rng.choice((None, "x.service", text(rng))))
        ),
        ancestors=tuple(
            Ancestor(
                pid=number(rng, 22),
                start_ns=number(rng, 63),
                comm=absent(rng, chunk(rng, 4)),
                exe=absent(rng, chunk(rng)),
            )
            for _ in range(rng.randrange(9))
        ),
    )


def owner(rng: random.Random) -> Owner:
    return rng.choice(tuple(OwnerLabel)) if rng.randrange(4) == 0 else process(rng)


def ends(rng: random.Random) -> dict[str, Any]:
    return {
        "protocol": rng.choice((1, 2, 6, 17, 41, 58, 132, 136, 0, 255, number(rng, 8))),
        "source": address(rng),
        "source_port": number(rng, 16),
        "destination": address(rng),
        "destination_port": number(rng, 16),
        "cookie": number(rng),
    }


def event(rng: random.Random) -> Event:
    """Any of the seven types; the wall clock may lie before 1970."""
    time_ns = BASE_NS + rng.choice((0, 1, -1, number(rng, 40), -number(rng, 40), -BASE_NS - number(rng, 50)))
    kind = rng.randrange(7)
    if kind == 0:
        return ExecEvent(time_ns=time_ns, owner=owner(rng))
    if kind == 1:
        return ExitEvent(
            time_ns=time_ns,
            owner=owner(rng),
            code=number(rng, 32),
            signal=rng.choice((0, 9, number(rng, 7))),
            duration_ns=number(rng, 60),
        )
    if kind == 2:
        return LossEvent(
            time_ns=time_ns, stage=text(rng), kind=text(rng), reason=text(rng), count=number(rng)
        )
    if kind == 3:
        return VerdictEvent(
            time_ns=time_ns,
            owner=owner(rng),
            verdict=rng.choice(tuple(Verdict)),
            policy=absent(rng, text(rng)),
            rule=absent(rng, text(rng)),
            generation=number(rng),
            suppressed=number(rng, 32),
            direction=rng.choice(tuple(Direction)),
            interface=absent(rng, text(rng)),
            fragment=rng.random() < 0.5,
            **ends(rng),
        )
    socket = (ConnectEvent, AcceptEvent, ListenEvent)[kind - 4]
    return socket(
        time_ns=time_ns, owner=owner(rng), error=rng.choice((0, 111, 125, number(rng, 8))), **ends(rng)
    )


def flow_record(rng: random.Random, dt_ns: int = 0) -> list[Any]:
    """The members of a flow's record, as cbor2 takes them."""
    e = ends(rng)
    who = absent(rng, owner(rng))
    return [
        8,
        dt_ns,
        *(e[name] for name in ("protocol", "source", "source_port", "destination", "destination_port")),
        rng.choice(tuple(Direction)).value,
        tagged(absent(rng, text(rng))),
        *(number(rng) for _ in range(5)),
        tagged(absent(rng, number(rng, 8))),
        BASE_NS - number(rng, 50),
        BASE_NS,
        rng.choice(tuple(FlowState)).value,
        rng.random() < 0.5,
        rng.choice(tuple(Verdict)).value,
        tagged(absent(rng, text(rng))),
        tagged(absent(rng, text(rng))),
        number(rng, 32),
        process_fields(who)
        if isinstance(who, Process)
        else who.value
        if isinstance(who, OwnerLabel)
        else tagged(who),
    ]


def tagged(value: Any) -> Any:
    return cbor2.CBORTag(60000, value.reason) if isinstance(value, Absent) else value


def sample(rng: random.Random) -> Sample:
    value = absent(
        rng, rng.choice((number(rng), -number(rng, 62), rng.uniform(-1, 1), 0.0, 1e300, 1e-9, 12.5))
    )
    return Sample(
        name=text(rng),
        labels=tuple((f"{at}{text(rng)}", text(rng)) for at in range(rng.randrange(4))),
        value=None if isinstance(value, Absent) else value,
        reason=value.reason if isinstance(value, Absent) else None,
        unit=text(rng),
        kind=rng.choice(("gauge", "counter")),
        source=text(rng),
        time_ns=BASE_NS + number(rng, 40),
    )
