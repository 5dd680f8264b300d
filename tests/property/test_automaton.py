"""The automaton agrees with a matcher that tries everything, for any patterns and any path."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.kernel.automaton import BELOW, Glob, Pattern, Step, build
from tests.support import scale

BYTES = st.binary(max_size=3).map(lambda raw: bytes(b"ab."[each % 3] for each in raw))
GLOBS = st.one_of(
    BYTES.filter(bool).map(Glob),
    st.builds(lambda prefix, suffix: Glob(prefix, suffix, open=True), BYTES, BYTES),
)
STEPS = st.one_of(st.builds(Step, GLOBS, st.booleans()), st.just(BELOW))
PATTERNS = st.lists(STEPS, max_size=4).map(tuple)
PATHS = st.lists(st.one_of(BYTES.filter(bool), st.sampled_from([b"aba", b"abaaba", b"z"])), max_size=5)


def naive(pattern: Pattern, path: list[bytes]) -> bool:
    """By trying every way a repeated step could be taken."""
    if not pattern:
        return not path
    first, rest = pattern[0], pattern[1:]
    hit = bool(path) and glob_matches(first.glob, path[0])
    if first.repeated:
        return naive(rest, path) or (hit and naive(pattern, path[1:]))
    return hit and naive(rest, path[1:])


def glob_matches(glob: Glob, component: bytes) -> bool:
    if not glob.open:
        return component == glob.prefix
    return any(
        component[: len(glob.prefix)] == glob.prefix and component[len(component) - left :] == glob.suffix
        for left in [len(glob.suffix)]
        if len(glob.prefix) + left <= len(component)
    )


@settings(max_examples=scale.scaled(300, 5_000))
@given(st.lists(PATTERNS, max_size=6), st.lists(PATHS, min_size=1, max_size=8))
def test_automaton_is_the_naive_matcher(patterns: list[Pattern], paths: list[list[bytes]]) -> None:
    made = build(patterns, most=1 << 20)
    for path in paths:
        accepts = made.states[made.walk(path)].accepts
        assert accepts == sum(1 << bit for bit, pattern in enumerate(patterns) if naive(pattern, path))
