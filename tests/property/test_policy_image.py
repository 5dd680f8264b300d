"""Random policies and packets: the compiled image decides as the reference reads the documents."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.kernel.policy_image import compile_policies, names_of
from aegis.kernel.policy_walk import ImageReader
from aegis.model.policy import Packet, PolicySet
from tests.support.policies import EPOCH_MS, compiled, large_set, packets_about, packets_at, random_set
from tests.support.policy_extremes import edge_set, left_set, nested_set, packets_at_edges, packets_nested
from tests.support.policy_mutants import MUTANTS, expected, found, planted
from tests.support.scale import scaled, seed

SETS, PACKETS = scaled(61, 200), scaled(307, 2000)
NESTED = scaled(1, 31)


def differences(dice: random.Random, packets: int) -> int:
    """How many packets a random set's image judges otherwise than the reference."""
    policies = random_set(dice)
    return wrong_about(policies, packets_about(dice, policies, packets) + packets_at_edges(policies))


def edge_differences() -> int:
    edges = edge_set()
    return wrong_about(edges, packets_at_edges(edges))


def left_differences() -> int:
    left = left_set()
    return wrong_about(left, packets_at_edges(left))


def nested_differences(dice: random.Random) -> int:
    nested = nested_set(dice)
    return wrong_about(nested, packets_nested(nested))


def everywhere(dice: random.Random) -> Iterator[int]:
    """The differences of every set there is, the slow one last."""
    yield edge_differences()
    yield left_differences()
    yield from (differences(dice, PACKETS) for _ in range(SETS))
    yield nested_differences(dice)


def wrong_about(policies: PolicySet, asked: list[Packet]) -> int:
    image = compiled(policies)
    reader = ImageReader(image.data)
    judged = [
        reader.judge(packet, names=names_of(image, packet.names), boot_epoch_ms=EPOCH_MS) for packet in asked
    ]
    got = found(image.rules, judged)
    return sum(one != other for one, other in zip(got, expected(policies, asked), strict=True))


def test_the_image_decides_as_the_reference() -> None:
    dice = random.Random(seed())
    assert [differences(dice, PACKETS) for _ in range(SETS)] == [0] * SETS


def test_the_edges_of_the_addresses() -> None:
    """By no seed: an interval that begins late is seen in both families."""

    def by_family() -> list[bool]:
        edges = edge_set()
        asked = packets_at_edges(edges)
        return [wrong_about(edges, [one for one in asked if one.peer_number[0] == f]) > 0 for f in (4, 6)]

    assert by_family() == [False, False]
    with planted("interval begins one late"):
        assert by_family() == [True, True]


def test_what_is_left() -> None:
    assert left_differences() == 0


def test_large_sets_that_nest() -> None:
    """Narrow prefixes first: what decides is of high rank and several classes outward, in both families."""
    dice = random.Random(seed())
    assert [nested_differences(dice) for _ in range(NESTED)] == [0] * NESTED


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_caught(mutant: str) -> None:
    dice = random.Random(seed())
    with planted(mutant):  # one about what few random sets have is looked for in more of them
        assert any(any(everywhere(dice)) for _ in range(6))


def test_every_rank_of_the_largest_set_decides() -> None:
    """Asked at each rule by itself; and a compiler that keeps eight bits of a rank is caught by it."""
    policies = large_set(random.Random(seed()))
    asked = packets_at(policies)
    assert len(asked) == 1000

    def judged() -> list[tuple[object, ...]]:
        image = compile_policies(policies)
        reader = ImageReader(image.data)
        return found(image.rules, [reader.judge(packet) for packet in asked])

    right = expected(policies, asked)
    assert judged() == right
    with planted("a rank keeps eight bits"):
        assert judged() != right


@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_compiling_is_deterministic_and_total(number: int) -> None:
    dice = random.Random(number)
    policies = random_set(dice, policies=3, rules=4)
    image = compiled(policies)
    shuffled = list(policies)
    dice.shuffle(shuffled)
    again = compiled(PolicySet(policies=tuple(shuffled)))
    assert (again.data, again.digest) == (image.data, image.digest)
    reader = ImageReader(image.data)
    assert (reader.bytes, reader.rules, reader.enforced) == (
        len(image.data),
        len(image.rules),
        image.enforced,
    )


@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_a_policy_that_never_matches_changes_no_verdict(number: int) -> None:
    """The same packets, with one more policy for the other direction alone."""
    dice = random.Random(number)
    policies = random_set(dice, policies=2, rules=4)
    asked = packets_about(dice, policies, 31)
    extra = msgspec.structs.replace(
        policies.policies[0],
        name="zz-extra",
        priority=1_000_000,
        rules=tuple(
            msgspec.structs.replace(rule, blocks=(), names=(), ports=(), icmps=())
            for rule in policies.policies[0].rules[:1]
        ),
        default_deny=(),
    )
    direction = extra.rules[0].direction
    images = [compiled(policies), compiled(policies.with_policy(extra))]
    for packet in asked:
        if packet.direction is not direction:
            before, after = (
                ImageReader(image.data).judge(
                    packet, names=names_of(image, packet.names), boot_epoch_ms=EPOCH_MS
                )
                for image in images
            )
            assert after.verdict is before.verdict
