from __future__ import annotations

from aegis.agent.link.window import LEAST_BYTES, Window
from aegis.model.block import Block, BlockClass

EVENT, FLOW = BlockClass.EVENT, BlockClass.FLOW


def block(first: int, count: int, size: int, *, stream: int = 1, cls: BlockClass = EVENT) -> Block:
    return Block(
        cls=cls, stream=stream, first=first, count=count, boot_id=bytes(16), base_ns=0, records=bytes(size)
    )


def test_what_is_in_flight_takes_room_until_it_is_acknowledged() -> None:
    window = Window(3 * LEAST_BYTES)
    assert window.room == 3 * LEAST_BYTES
    window.take(block(0, 10, LEAST_BYTES))
    window.take(block(10, 10, LEAST_BYTES))
    window.take(block(0, 5, 1, cls=FLOW))
    assert (window.bytes, window.room) == (2 * LEAST_BYTES + 1, 0)
    assert not window.acknowledged(1, EVENT, 9)
    assert window.room == 0
    assert window.acknowledged(1, EVENT, 10)
    assert window.bytes == LEAST_BYTES + 1
    assert window.acknowledged(1, EVENT, 1000)
    assert not window.acknowledged(1, EVENT, 1000)
    assert window.acknowledged(1, FLOW, 5)
    assert (window.bytes, window.room) == (0, 3 * LEAST_BYTES)


def test_streams_are_apart_and_strangers_harmless() -> None:
    window = Window(3 * LEAST_BYTES)
    window.take(block(0, 1, 7, stream=1))
    window.take(block(0, 1, 9, stream=2))
    assert not window.acknowledged(3, EVENT, 5)
    assert not window.acknowledged(1, FLOW, 5)
    assert window.acknowledged(2, EVENT, 1)
    assert window.bytes == 7


def test_a_block_of_losses_alone_is_let_go_as_well() -> None:
    window = Window(3 * LEAST_BYTES)
    window.take(block(4, 0, 0))
    assert window.acknowledged(1, EVENT, 4)
    assert window.bytes == 0
