"""Random policies and packets: the compiled image decides as the reference reads the documents."""

from __future__ import annotations

import random
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.kernel import policy_image
from aegis.kernel.policy_image import compile_policies
from aegis.kernel.policy_walk import ImageReader
from aegis.model.policy import PolicySet
from tests.support.policies import large_set, packets_about, packets_at, random_set
from tests.support.policy_mutants import MUTANTS, expected, found, planted
from tests.support.scale import scaled, seed

SETS, PACKETS = scaled(61, 200), scaled(307, 2000)


def differences(dice: random.Random, packets: int) -> int:
    """How many packets a random set's image judges otherwise than the reference."""
    policies = random_set(dice)
    asked = packets_about(dice, policies, packets)
    image = compile_policies(policies)
    reader = ImageReader(image.data)
    got = found(image.rules, [reader.judge(packet) for packet in asked])
    return sum(one != other for one, other in zip(got, expected(policies, asked), strict=True))


def test_the_image_decides_as_the_reference() -> None:
    dice = random.Random(seed())
    assert [differences(dice, PACKETS) for _ in range(SETS)] == [0] * SETS


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_caught(mutant: str) -> None:
    dice = random.Random(seed())
    with planted(mutant):
        assert any(differences(dice, PACKETS) for _ in range(SETS))


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
    whole = policy_image.choice
    with mock.patch.object(policy_image, "choice", lambda rank, *, deny: whole(rank % 256, deny=deny)):
        assert judged() != right


@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_compiling_is_deterministic_and_total(number: int) -> None:
    dice = random.Random(number)
    policies = random_set(dice, policies=3, rules=4)
    image = compile_policies(policies)
    shuffled = list(policies)
    dice.shuffle(shuffled)
    again = compile_policies(PolicySet(policies=tuple(shuffled)))
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
            msgspec.structs.replace(rule, blocks=(), ports=(), icmps=())
            for rule in policies.policies[0].rules[:1]
        ),
    )
    direction = extra.rules[0].direction
    before = ImageReader(compile_policies(policies).data)
    after = ImageReader(compile_policies(policies.with_policy(extra)).data)
    for packet in asked:
        if packet.direction is not direction:
            assert after.judge(packet).verdict is before.judge(packet).verdict
