"""Which branches of a parser's code were taken: both ways of every conditional jump, seen by tracing each instruction.

Left out is what no input is meant to reach: the way into an `assert`'s error, an exception that none of its handlers
takes, and a context manager that swallows an exception.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Place = tuple[str, int, str, int]  # file, first line and name of the code, offset of the jump
Branch = tuple[Place, int]  # and where it went
_NOT_COUNTED = {"CHECK_EXC_MATCH", "WITH_EXCEPT_START", "CHECK_EG_MATCH"}


def codes(file: Path) -> Iterator[CodeType]:
    """Every function of a file, but not what runs once when it is imported."""
    waiting = [compile(file.read_text(), str(file), "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        inner = [one for one in code.co_consts if isinstance(one, CodeType)]
        waiting += inner
        yield from (one for one in inner if one.co_flags & 0x2)  # CO_NEWLOCALS: a function, not a class body


def place(code: CodeType, offset: int) -> Place:
    return code.co_filename, code.co_firstlineno, code.co_name, offset


def jumps(code: CodeType) -> Iterator[tuple[int, tuple[int, int]]]:
    """Offset of each conditional jump, and the offsets of the two instructions that can come next.

    One with a long way to go stands behind EXTENDED_ARG, and the interpreter's trace tells of that instead.
    """
    listed = list(dis.get_instructions(code))
    begins = 0
    for number, one in enumerate(listed[:-1]):
        if one.opname == "EXTENDED_ARG":
            continue
        first, begins = begins, listed[number + 1].offset
        conditional = one.opname == "FOR_ITER" or "JUMP_IF" in one.opname or "POP_JUMP" in one.opname
        if not conditional:
            continue
        plain = [each for each in listed[:number] if each.opname != "EXTENDED_ARG"]
        before, after = plain[-1].opname if plain else "", listed[number + 1]
        if before in _NOT_COUNTED or after.opname == "LOAD_ASSERTION_ERROR":
            continue
        assert isinstance(one.argval, int)
        yield first, (after.offset, one.argval)


class Branches:
    """The branches of some parsers: files, or FILE:NAME for a function or a class of one."""

    def __init__(self, parsers: Iterable[str]) -> None:
        self._jumps: dict[Place, tuple[int, int]] = {}
        for parser in parsers:
            file, _, name = parser.partition(":")
            for code in codes(ROOT / file):
                if name and name not in code.co_qualname.split("."):
                    continue
                for offset, ways in jumps(code):
                    self._jumps[place(code, offset)] = ways
        self._files = {file for file, *_ in self._jumps}
        self.taken: set[Branch] = set()

    @property
    def count(self) -> int:
        return 2 * len(self._jumps)

    @property
    def share(self) -> float:
        """Of all branches, those taken; 1 where there are none."""
        return len(self.taken) / self.count if self.count else 1.0

    def missing(self) -> list[str]:
        """FILE:LINE FUNCTION of each branch not taken, sorted."""
        found = []
        for at, ways in self._jumps.items():
            lines = _lines(at)
            file = Path(at[0]).relative_to(ROOT)
            found += [
                f"{file}:{lines.get(at[3], at[1])} {at[2]} -> line {lines.get(way, '?')}"
                for way in ways
                if (at, way) not in self.taken
            ]
        return sorted(found)

    def run(self, one: Callable[[bytes], None], inputs: Iterable[bytes]) -> None:
        """Give each input to `one`, watching. What it raises is not caught."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            for data in inputs:
                one(data)
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, _event: str, _argument: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self._files:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        last: Place | None = None

        def step(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal last
            if event == "opcode":
                offset = frame.f_lasti
                if last is not None:
                    if offset in self._jumps[last]:
                        self.taken.add((last, offset))
                    last = None
                at = place(code, offset)
                if at in self._jumps:
                    last = at
            return step

        return step


def _lines(at: Place) -> dict[int, int]:
    """Line by offset of the code a place is in."""
    for code in codes(Path(at[0])):
        if (code.co_firstlineno, code.co_name) == (at[1], at[2]):
            found: dict[int, int] = {}
            for start, end, line in code.co_lines():
                if line is not None:
                    found |= dict.fromkeys(range(start, end, 2), line)
            return found
    return {}
