"""Orders of a gateway: judged, carried out by the same calls as those of the control socket, answered after the change."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from aegis.agent.answers import module_item, policy_item, setting_item
from aegis.agent.held_off import Interrupted
from aegis.agent.link.unsaid import Reply
from aegis.agent.module_orders import ModuleOrders, Order
from aegis.agent.policy_orders import PolicyOrders
from aegis.errors import (
    AegisError,
    ModuleError,
    ModuleStartFailed,
    ModuleStopTimeout,
    OrderInvalid,
    PolicyNotEnforced,
    PolicyUnsigned,
    WouldCutControl,
)
from aegis.model.module import ModuleState, ModuleStatus
from aegis.protocol import orders
from aegis.protocol.agent_happenings import Order as Received
from aegis.protocol.orders import (
    ApplyPolicy,
    Command,
    ConfigureModule,
    DisableModule,
    EnableModule,
    GetModuleStatus,
    ListModules,
    ListPolicies,
    RemovePolicy,
    StartModule,
    StopModule,
)
from aegis.runtime.module import Clock, Log

LINK = "websocket_communication"
ORIGIN = "gateway"
MOST_WAITING = 64  # orders that may be under way or wait for another of the same module
MOST_REMEMBERED = 256  # answers, so that a repeated order is not done again
ANY_PRINT: Final = b""  # of an order that another agent before this one took: which it was is not known
STAGE = "link.orders"
IDENTITY = "received = done + failed + refused + repeated + under_way"
READINGS = (ListModules, GetModuleStatus, ListPolicies)
_ORDERS: dict[type[Command], Order] = {
    StartModule: "start",
    StopModule: "stop",
    EnableModule: "enable",
    DisableModule: "disable",
}
_MEANT: dict[Order, frozenset[ModuleState]] = {
    "start": frozenset({ModuleState.RUNNING, ModuleState.DEGRADED}),
    "enable": frozenset({ModuleState.RUNNING, ModuleState.DEGRADED}),
    "stop": frozenset({ModuleState.STOPPED, ModuleState.DISABLED}),
    "disable": frozenset({ModuleState.DISABLED}),
}


class Busy(ModuleError):
    """Too many orders wait already."""

    code = "too_many_orders"


class Commands:
    """Orders of one module, or about policies, are carried out one after another; those of different ones together.

    `unsigned` gives the option `policy.unsigned_orders` now; `answer` takes each reply.
    """

    def __init__(
        self,
        module_orders: ModuleOrders,
        policy_orders: PolicyOrders,
        *,
        group: asyncio.TaskGroup,
        unsigned: Callable[[], str],
        answer: Callable[[Reply], None],
        clock: Clock,
        log: Log,
    ) -> None:
        self._modules = module_orders
        self._policies = policy_orders
        self._group = group
        self._unsigned = unsigned
        self._answer = answer
        self._clock = clock
        self._log = log
        self._locks: dict[str, asyncio.Lock] = {}
        self._under_way: dict[str, tuple[Command, bytes]] = {}  # with their prints
        self._answered: OrderedDict[str, tuple[Reply, bytes]] = OrderedDict()
        self._waiting = 0
        self._counts = dict.fromkeys(("received", "done", "failed", "refused", "repeated"), 0)

    def take(self, received: Received) -> None:
        """Begin an order. A repeated one is answered as before, or by the one that is still under way.

        Another order with the id of such a one is refused: that answer says nothing of it.
        """
        self._counts["received"] += 1
        identity, own = received.command_id, _print(received)
        before, known = self._answered.get(identity, (None, None))
        if known is None and identity in self._under_way:
            known = self._under_way[identity][1]
        if known in (own, ANY_PRINT):
            self._counts["repeated"] += 1
            if before is not None:
                self._answer(before)
            return
        policy = False
        try:
            command = orders.parse(
                received.channel, received.body, wall_s=self._clock.wall_ns() // 1_000_000_000
            )
            policy = orders.is_policy(command)
            if known is not None:
                raise OrderInvalid(
                    f"another order had the id {identity}", hint="each order has an id of its own"
                )
            self._judge(command)
        except AegisError as error:
            self._counts["refused"] += 1
            self._refuse(identity, error, None, policy=policy)  # it may come again when it is taken
            return
        self._log.info("order of the gateway", order=type(command).__name__, command_id=identity)
        if identity:
            self._under_way[identity] = command, own
        self._waiting += 1
        self._group.create_task(self._carry_out(identity, command, own), name=f"order {identity}")

    def terms(self) -> Mapping[str, Mapping[str, int]]:
        """The terms of `IDENTITY`. `refused` ones were not begun."""
        return {STAGE: self._counts | {"under_way": self._waiting}}

    def under_way(self) -> list[Interrupted]:
        """What would be left without an answer now. From any thread."""
        return [
            Interrupted(
                command_id=identity,
                module=getattr(command, "module_id", ""),
                policy=orders.is_policy(command),
            )
            for identity, (command, _) in list(self._under_way.items())
        ]

    def answer(self, replies: Iterable[Reply]) -> None:
        """Answer orders that another agent before this one had begun: they are not begun again."""
        for reply in replies:
            self._log.warning(
                "order interrupted", command_id=reply.in_reply_to, code=reply.code, text=reply.text
            )
            self._reply(reply, ANY_PRINT)

    def _judge(self, command: Command) -> None:
        """Raises the reason why this order is not carried out."""
        if self._waiting >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING} orders wait already", hint="wait for their answers")
        if not isinstance(command, READINGS) and self._unsigned() != "accept":
            raise PolicyUnsigned(
                type(command).__name__,
                "orders over protocol v1 are signed by nobody, and such orders are refused here",
                hint="policy.unsigned_orders = accept takes them",
            )
        if isinstance(command, StopModule | DisableModule) and command.module_id == LINK:
            raise WouldCutControl(
                f"{LINK} keeps the link this order came over", hint=f"on the host: aegis modules stop {LINK}"
            )
        name = getattr(command, "module_id", None)
        if name is not None:
            self._modules.status(name)  # ModuleUnknown: a name nobody knows gets no lock

    async def _carry_out(self, identity: str, command: Command, own: bytes) -> None:
        policy = orders.is_policy(command)
        lock = self._locks.setdefault(getattr(command, "module_id", ""), asyncio.Lock())
        done = False
        try:
            async with lock:
                code, text, state = await self._do(command)
            done = code == ""
            reply = Reply(in_reply_to=identity, ok=done, code=code, text=text, state=state, policy=policy)
        except AegisError as error:
            self._refuse(identity, error, own, policy=policy)
            return
        except Exception as error:  # noqa: BLE001  a bug of ours in one order is that order's answer and a log line
            self._log.error("order failed", order=type(command).__name__, error=repr(error))
            self._refuse(identity, AegisError(f"{type(error).__name__}: {error}"), own, policy=policy)
            return
        finally:
            self._waiting -= 1
            self._under_way.pop(identity, None)
            self._counts["done" if done else "failed"] += 1
        self._log.info("order answered", command_id=identity, ok=reply.ok, text=reply.text)
        self._reply(reply, own)

    async def _do(self, command: Command) -> tuple[str, str, Any]:
        """Carry it out: the code (empty where it went well), a sentence, and how things stand now."""
        match command:
            case ListModules():
                items = [module_item(one) for one in self._modules.statuses()]
                return "", f"{len(items)} modules", {"modules": items, "count": len(items)}
            case GetModuleStatus(module_id=name):
                status = self._modules.status(name)
                options = [setting_item(one) for one in self._modules.options(name)]
                return "", _stands(status), module_item(status) | {"options": options}
            case ConfigureModule(module_id=name, settings=settings):
                options = [setting_item(one) for one in await self._modules.configure(name, settings)]
                status = self._modules.status(name)
                return "", _stands(status), module_item(status) | {"options": options}
            case ApplyPolicy():
                applied = self._policies.apply(command.document, origin=ORIGIN)
                return "", f"policy {applied['policy']} is in force", policy_item(applied)
            case RemovePolicy(name=name):
                removed = self._policies.remove(name, origin=ORIGIN)
                return "", f"policy {name} is removed", policy_item(removed)
            case ListPolicies():
                policies = [policy_item(one) for one in self._policies.list()]
                return "", f"{len(policies)} policies", {"policies": policies, "count": len(policies)}
            case StartModule() | StopModule() | EnableModule() | DisableModule():
                order = _ORDERS[type(command)]
                return _outcome(order, await self._modules.give(order, command.module_id))
        raise OrderInvalid(f"{type(command).__name__} is not carried out here")

    def _refuse(self, identity: str, error: AegisError, own: bytes | None, *, policy: bool) -> None:
        self._log.warning("order refused", command_id=identity, code=error.code, text=str(error))
        text = f"{error} ({error.hint})" if error.hint else str(error)
        state = policy_item(error.policy) if isinstance(error, PolicyNotEnforced) else None
        reply = Reply(in_reply_to=identity, ok=False, code=error.code, text=text, state=state, policy=policy)
        self._reply(reply, own)

    def _reply(self, reply: Reply, own: bytes | None) -> None:
        """With the order's print it is the answer to a repetition; without, the order may come again."""
        if own is not None and reply.in_reply_to:
            self._answered[reply.in_reply_to] = reply, own
            while len(self._answered) > MOST_REMEMBERED:
                self._answered.popitem(last=False)
        self._answer(reply)


def _print(received: Received) -> bytes:
    """The same for what comes twice; who sends again writes a new time of sending into it."""
    if not received.command_id:
        return ANY_PRINT
    body = {name: value for name, value in received.body.items() if name != "timestamp"}
    told = msgspec.json.encode([received.channel, body], order="sorted")
    return hashlib.blake2b(told, digest_size=16).digest()


def _stands(status: ModuleStatus) -> str:
    return f"{status.name} is {status.state}" + (f": {status.reason}" if status.reason else "")


def _outcome(order: Order, status: ModuleStatus) -> tuple[str, str, Any]:
    """An order that was carried out and did not come to what it meant is no success."""
    failure = ModuleStartFailed if order in {"start", "enable"} else ModuleStopTimeout
    return "" if status.state in _MEANT[order] else failure.code, _stands(status), module_item(status)
