from __future__ import annotations

from aegis.agent.owners import Owners
from aegis.model.process import OwnerLabel


def test_the_newest_provider_answers_while_it_provides() -> None:
    owners = Owners()
    assert (owners.find(1), owners.provided) == (None, False)
    with owners.provide(lambda _: OwnerLabel.KERNEL):
        assert owners.find(1) is OwnerLabel.KERNEL
        with owners.provide(lambda _: OwnerLabel.FORWARDED):
            assert owners.find(1) is OwnerLabel.FORWARDED
        assert owners.find(1) is OwnerLabel.KERNEL
    assert owners.find(1) is None
