"""What the fuzz entries have in common: their corpus, seeded mutations of it, and atheris when run as a script.

An entry is a file `fuzz_NAME.py` beside this one with a function `one(data)`, which raises for every wrong answer and
returns for every right one, refusals included; its corpus is `corpus/NAME/`.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
One = Callable[[bytes], None]
# What parsers trip over.
WORDS = (
    b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"-0", b"1e999", b"1.0", b"NaN", b"9223372036854775808",
    b"\\ud800", b"\\u0000", b"\x00", b"\xff", b"\xef\xbb\xbf", b"==", b"=", b"\r\n", b"A" * 70, b"[" * 40, b'{"a":' * 40, b".", b"agent.",
)  # fmt: skip


def names() -> list[str]:
    return sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))


def load(name: str) -> One:
    """The entry's `one`."""
    found: One = module(name).one
    return found


def module(name: str) -> ModuleType:
    """The entry's file, imported."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", HERE / f"fuzz_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((HERE / "corpus" / name).iterdir())]


def mutations(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Changed seeds: bits, cuts, repeats, words, and pieces of one in another."""
    dice = random.Random(seed)
    for _ in range(count):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(data) + 1)
            match dice.randrange(6):
                case 0 if data:
                    data[place % len(data)] ^= 1 << dice.randrange(8)
                case 1:
                    del data[place : place + dice.randint(1, 8)]
                case 2:
                    data[place:place] = dice.choice(WORDS)
                case 3:
                    data[place:place] = data[: dice.randrange(len(data) + 1)][-16:]
                case 4:
                    other = dice.choice(seeds)
                    start = dice.randrange(len(other) + 1)
                    data[place:] = other[start:]
                case _:
                    data[place : place + 1] = bytes([dice.randrange(256)])
        yield bytes(data)


def main(name: str) -> None:
    """`python tests/fuzz/fuzz_NAME.py [libFuzzer options]`; what it finds of interest is kept in build/fuzz/NAME."""
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=["aegis.protocol"]):  # before the entry brings them in
        import aegis.protocol.agent
        import aegis.protocol.gateway
        import aegis.protocol.orders  # noqa: F401
    one = load(name)
    grown = HERE.parents[1] / "build/fuzz" / name
    grown.mkdir(parents=True, exist_ok=True)
    atheris.Setup([*sys.argv, str(grown), str(HERE / "corpus" / name)], one)
    atheris.Fuzz()
