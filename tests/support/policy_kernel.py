"""Asks the kernel's own search about packets: object `probe_policy`, thousands of questions in one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from aegis.kernel import abi
from aegis.kernel.constants import Constants
from aegis.kernel.object import BpfObject, Program
from aegis.kernel.policy_image import CompiledImage, compile_policies, names_of, service_key
from aegis.kernel.policy_slots import PolicySlots
from aegis.kernel.policy_walk import ImageReader
from aegis.model.policy import Judgement, Packet, PolicySet
from tests.support.policies import EPOCH_MS

EXPIRED_SHIFT = 40  # of the instants that have passed, in a question
MOST = 4096  # questions in a run
PACKET = bytes(64)


class KernelJudge:
    """The probe object and the slots of its tables."""

    def __init__(self, image_bytes: int = abi.IMAGE_MEDIUM, data: bytes | None = None) -> None:
        """`data`: another object than that of this build."""
        constants = Constants(
            agent_tgid=os.getpid(), ring_bytes=1 << 16, ring_reserved_bytes=1 << 12, image_bytes=image_bytes
        )
        self._stack = ExitStack()
        self.object = self._stack.enter_context(
            BpfObject.open("probe_policy", constants=constants, map_sizes={"aegis_ring": 1 << 16}, data=data)
        )
        self.object.load()
        self.slots = PolicySlots.of(self.object)
        self._stack.callback(self.slots.close)
        self._questions = self.object.map("probe_questions").mmap(writable=True)
        self._stack.callback(self._questions.close)
        self._count = self.object.map("probe_count").mmap(writable=True)
        self._stack.callback(self._count.close)
        self._generation = 0
        self._image = compile_policies(PolicySet())
        self._reader = ImageReader(self._image.data)

    def switch(self, image: CompiledImage) -> None:
        """Make the image the policy, as the next generation."""
        self._generation += 1
        self._image = image
        self._reader = ImageReader(image.data)
        self.slots.switch(image, self._generation)

    def ask(self, packets: Sequence[Packet]) -> list[Judgement]:
        """What the kernel decides about each packet."""
        found: list[Judgement] = []
        for at in range(0, len(packets), MOST):
            chunk = packets[at : at + MOST]
            self.put(chunk)
            self.program("probe_policy").run(PACKET)
            found += self.answers(len(chunk))
        return found

    def put(self, packets: Sequence[Packet]) -> None:
        """Write the questions."""
        words = memoryview(self._questions).cast("Q")
        for number, packet in enumerate(packets):
            words[6 * number] = int.from_bytes(packet.peer[:8], "big")
            words[6 * number + 1] = int.from_bytes(packet.peer[8:], "big")
            words[6 * number + 2] = (
                service_key(packet.direction, packet.protocol, packet.port, fragment=packet.fragment)
                | self._reader.expired(packet.now_ms - EPOCH_MS) << EXPIRED_SHIFT
            )
            words[6 * number + 3] = packet.subjects
            words[6 * number + 4] = names_of(self._image, packet.names)
            words[6 * number + 5] = (1 << 64) - 1
        words.release()
        memoryview(self._count).cast("Q")[0] = len(packets)

    def answers(self, count: int) -> list[Judgement]:
        """The decisions of the last run, decoded as `aegis_policy_lookup` says."""
        words = memoryview(self._questions).cast("Q")
        found = [_judgement(words[6 * number + 5]) for number in range(count)]
        words.release()
        return found

    def program(self, name: str) -> Program:
        return self.object.program(name)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _judgement(decision: int) -> Judgement:
    enforced, best = decision & 0xFFFFFF, decision >> 24 & 0xFFFFFF
    return Judgement(
        enforced=enforced - 1 if enforced else None,
        any=best - 1 if best else None,
        any_denies=bool(decision >> 48 & 1),
        enforced_denies=bool(decision >> 49 & 1),
    )
