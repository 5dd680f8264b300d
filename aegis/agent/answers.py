"""What the agent answers to each verb of the control socket, as items with the keys every object has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

import aegis
from aegis.agent import interface_feature
from aegis.agent.module_orders import ORDERS, Order
from aegis.errors import EnvelopeInvalid, PolicyInvalid, PolicyNotFound
from aegis.model.absent import Absent
from aegis.model.link import LinkState, LinkStatus
from aegis.model.module import ModuleStatus
from aegis.model.net import PROTOCOL_NUMBERS, Direction, address_bytes
from aegis.model.policy import EnforcementState, PastSet, Probe
from aegis.model.policy_differences import differences
from aegis.model.policy_document import parse_document
from aegis.model.sample import document
from aegis.model.stamp import rfc3339
from aegis.model.status import (
    AgentPart,
    ConditionPart,
    EnforcementPart,
    GatewayPart,
    ModulePart,
    Status,
    UnattachedPart,
)
from aegis.runtime.clock import stamp
from aegis.runtime.config import Setting

if TYPE_CHECKING:
    from aegis.agent.wiring import Agent
    from aegis.kernel.features import Feature

VERSION = 1
NOTHING = "nothing to explain"
NOT_MEASURED = "modules share one process; it is not measured by module"
NO_TRIAL = "nothing is on trial"
SHORTEST_TRIAL_MS, LONGEST_TRIAL_MS = 1_000, 86_400_000
NO_POLICY = "no policy is in force"


def stamped(schema: str, content: dict[str, Any]) -> dict[str, Any]:
    """One JSON object: the four keys, then its own."""
    return {"schema": schema, "version": VERSION, **stamp(), **content}


def with_reasons(content: dict[str, Any], reasons: dict[str, str]) -> dict[str, Any]:
    """`content` with `<name>_reason` beside each None that has one in `reasons`."""
    return content | {f"{name}_reason": reasons[name] for name in reasons if content.get(name) is None}


class Answers:
    """Answers for one agent. `serve` registers them."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def serve(self, stack: ExitStack) -> None:
        """Answer until `stack` closes."""
        verbs = self._agent.verbs
        for name, handler in (
            ("status", self.status),
            ("doctor", self.doctor),
            ("counters", self.counters),
            ("samples", self.samples),
            ("policy.check", self.policy_check),
            ("policy.apply", self.policy_apply),
            ("policy.confirm", self.policy_confirm),
            ("policy.rollback", self.policy_rollback),
            ("policy.history", self.policy_history),
            ("policy.export", self.policy_export),
            ("policy.diff", self.policy_diff),
            ("policy.list", self.policy_list),
            ("policy.explain", self.policy_explain),
            ("policy.remove", self.policy_remove),
            ("modules.list", self.modules_list),
            ("modules.config", self.modules_config),
            ("config.show", self.config_show),
        ):
            stack.enter_context(verbs.answer(name, handler))
        for order in ORDERS:
            stack.enter_context(verbs.answer(f"modules.{order}", self._order(order)))

    # ---- the agent

    async def status(self, _args: dict[str, Any]) -> Sequence[object]:
        agent = self._agent
        now_ns = agent.clock.wall_ns()
        link = agent.uplink.status()
        return [
            Status(
                time=rfc3339(now_ns),
                time_ns=now_ns,
                agent=AgentPart(
                    id=agent.id,
                    uid=None if isinstance(link.uid, Absent) else link.uid,
                    uid_reason=link.uid.reason if isinstance(link.uid, Absent) else msgspec.UNSET,
                    version=aegis.__version__,
                    pid=agent.pid,
                    uptime_s=round((agent.clock.monotonic_ns() - agent.started_ns) / 1e9, 3),
                ),
                gateway=gateway_part(link),
                modules=[module_part(one) for one in agent.supervisor.statuses()],
                enforcement=self._enforcement(),
                resources=agent.resources.read(),
                conditions=[
                    ConditionPart(
                        code=one.code,
                        source=one.source,
                        since=rfc3339(one.since_ns),
                        text=one.text,
                        hint=one.hint,
                    )
                    for one in agent.conditions.all()
                ],
                losses=agent.losses(),
            )
        ]

    def _enforcement(self) -> EnforcementPart:
        kernel = self._agent.kernel
        state = kernel.enforcer.state()
        reach = kernel.reach()
        reason = state.reason or (reach.text if state.mode else None)
        return EnforcementPart(
            state=state.state,
            reason=reason,
            reason_reason=msgspec.UNSET if reason else NOTHING,
            generation=state.generation or None,
            generation_reason=msgspec.UNSET if state.generation else NO_POLICY,
            mode=state.mode,
            mode_reason=msgspec.UNSET if state.mode else NO_POLICY,
            interfaces=self._watched() or [],
            unattached=[UnattachedPart(interface=name, reason=why) for name, why in reach.unattached],
            hooks=sorted(kernel.datapath.ways()) if kernel.datapath else [],
            confirm_deadline=None
            if state.confirm_by_ms is None
            else rfc3339(state.confirm_by_ms * 1_000_000),
            confirm_deadline_reason=NO_TRIAL if state.confirm_by_ms is None else msgspec.UNSET,
        )

    def _watched(self) -> list[str] | None:
        """Names of the interfaces with our hooks; None where no packet program is installed."""
        datapath = self._agent.kernel.datapath
        if datapath is None:
            return None
        names = {link.index: link.name for link in self._agent.links()}
        return sorted(names.get(index, str(index)) for index in datapath.interfaces())

    async def doctor(self, _args: dict[str, Any]) -> Sequence[object]:
        nothing = "the feature is there"
        return [
            stamped(
                "aegis.doctor",
                with_reasons(
                    {
                        "feature": one.name,
                        "state": one.state,
                        "source": one.source or None,
                        "reason": one.reason or None,
                        "effect": one.effect or None,
                        "hint": one.hint or None,
                    },
                    {"source": "the probe names none", "reason": nothing, "effect": nothing, "hint": nothing},
                ),
            )
            for one in (
                *self._agent.kernel.features.probe(),
                *self._agent.kernel.names.features(),
                interface_feature.of_agent(self._watched(), self._agent.conditions.all()),
                *link_features(self._agent.uplink.status()),
            )
        ]

    async def counters(self, _args: dict[str, Any]) -> Sequence[object]:
        return [
            stamped(
                "aegis.counters",
                {"stage": one.stage, "identity": one.identity, **one.terms, "balanced": one.balanced},
            )
            for one in self._agent.counters.read()
        ]

    async def samples(self, _args: dict[str, Any]) -> Sequence[object]:
        return [document(one) for one in self._agent.samples.latest()]

    async def config_show(self, _args: dict[str, Any]) -> Sequence[object]:
        return [setting_item(one) for one in self._agent.options.values()]

    # ---- policy

    @staticmethod
    def _document(args: dict[str, Any]) -> tuple[bytes, str]:
        try:
            return args["document"].encode(), args.get("path", "<document>")
        except UnicodeEncodeError as error:
            raise PolicyInvalid("", f"the document is not valid Unicode: {error.reason}") from None

    async def policy_check(self, args: dict[str, Any]) -> Sequence[object]:
        report = self._agent.kernel.enforcer.check(*self._document(args))
        content = msgspec.to_builtins(report)
        return [
            stamped(
                "aegis.policy_check",
                {"policy": content.pop("name"), "policy_version": content.pop("version"), **content},
            )
        ]

    async def policy_apply(self, args: dict[str, Any]) -> Sequence[object]:
        within_ms = args.get("confirm_within_ms", 0)
        if within_ms and not SHORTEST_TRIAL_MS <= within_ms <= LONGEST_TRIAL_MS:
            raise EnvelopeInvalid("policy.apply: confirm_within_ms must be from 1 s to 24 h")
        applied = self._agent.policy_orders.apply(*self._document(args), trial_ms=within_ms)
        return [policy_item(applied) | self._deadline()]

    def _deadline(self) -> dict[str, Any]:
        by_ms = self._agent.kernel.enforcer.state().confirm_by_ms
        if by_ms is None:
            return {"confirm_deadline": None, "confirm_deadline_reason": NO_TRIAL}
        return {"confirm_deadline": rfc3339(by_ms * 1_000_000)}

    def _enforced(self, state: EnforcementState) -> dict[str, Any]:
        content = {"state": state.state, "generation": state.generation, "mode": state.mode}
        reasons = {} if state.mode else {"mode_reason": NO_POLICY}
        return stamped("aegis.enforcement", content | reasons | self._deadline())

    async def policy_confirm(self, _args: dict[str, Any]) -> Sequence[object]:
        return [self._enforced(self._agent.kernel.enforcer.confirm())]

    async def policy_rollback(self, _args: dict[str, Any]) -> Sequence[object]:
        return [self._enforced(self._agent.kernel.enforcer.rollback())]

    async def policy_history(self, _args: dict[str, Any]) -> Sequence[object]:
        return [past_item(one) for one in self._agent.kernel.enforcer.history()]

    async def policy_export(self, args: dict[str, Any]) -> Sequence[object]:
        wanted = args.get("name")
        found = [
            stamped(
                "aegis.policy_document", {"policy": name, "origin": origin, "document": document.decode()}
            )
            for origin, name, document in self._agent.kernel.enforcer.documents()
            if wanted in {None, name}
        ]
        if wanted is not None and not found:
            raise PolicyNotFound(wanted, "no policy of this name is in force")
        return found

    async def policy_diff(self, args: dict[str, Any]) -> Sequence[object]:
        document, _ = self._document(args)
        policy = parse_document(document)
        held = {name: each for _, name, each in self._agent.kernel.enforcer.documents()}.get(policy.name)
        changes = differences(held, document)
        state = "new" if held is None else "changed" if changes else "same"
        return [stamped("aegis.policy_diff", {"policy": policy.name, "state": state, "changes": changes})]

    async def policy_remove(self, args: dict[str, Any]) -> Sequence[object]:
        return [policy_item(self._agent.policy_orders.remove(args["name"]))]

    async def policy_list(self, _args: dict[str, Any]) -> Sequence[object]:
        return [policy_item(one) for one in self._agent.policy_orders.list()]

    async def policy_explain(self, args: dict[str, Any]) -> Sequence[object]:
        found = self._agent.kernel.enforcer.explain(probe_of(args))
        content = msgspec.to_builtins(found)
        if content["policy"] is None:
            content |= {"policy_reason": "no rule matches", "rule_reason": "no rule matches"}
        if content["mode"] is None:
            content["mode_reason"] = "no rule matches"
        return [stamped("aegis.explanation", content)]

    # ---- modules

    async def modules_list(self, _args: dict[str, Any]) -> Sequence[object]:
        return [module_item(one) for one in self._agent.module_orders.statuses()]

    def _order(self, order: Order) -> Callable[[dict[str, Any]], Any]:
        async def answer(args: dict[str, Any]) -> Sequence[object]:
            return [module_item(await self._agent.module_orders.give(order, args["name"]))]

        return answer

    async def modules_config(self, args: dict[str, Any]) -> Sequence[object]:
        options = await self._agent.module_orders.configure(args["name"], args.get("set") or {})
        return [setting_item(one) for one in options]


def module_part(status: ModuleStatus) -> ModulePart:
    return ModulePart(
        name=status.name,
        state=status.state.value,
        reason=status.reason or None,
        reason_reason=msgspec.UNSET if status.reason else NOTHING,
        since=rfc3339(status.since_ns),
        restarts=status.restarts,
        cpu_percent=None,
        cpu_percent_reason=NOT_MEASURED,
        memory_bytes=None,
        memory_bytes_reason=NOT_MEASURED,
    )


def module_item(status: ModuleStatus) -> dict[str, Any]:
    """One module as `modules list` shows it, and as an order about it is answered."""
    return stamped("aegis.module", msgspec.to_builtins(module_part(status)))


def link_features(link: LinkStatus) -> tuple[Feature, ...]:
    """The row of the link, where a gateway is configured. Over v1 it is never more than degraded."""
    if link.state is LinkState.UNCONFIGURED:
        return ()
    from aegis.kernel.features import Feature

    up = link.up
    return (
        Feature(
            name="gateway",
            state="degraded" if up else "missing",
            source="gateway.url",
            reason=link.reason or "protocol v1 hides nothing and proves little of the gateway"
            if up
            else link.reason or link.state.value,
            effect="orders are signed by nobody, and refused unless policy.unsigned_orders = accept"
            if up
            else "records wait in the outbox, and no order arrives",
            hint="keep it to networks you trust, or wss:// with gateway.ca"
            if up
            else "aegis status says more",
        ),
    )


def gateway_part(link: LinkStatus) -> GatewayPart:
    values: dict[str, Any] = {}
    for name in ("url", "protocol", "insecure_v1"):
        values |= _value(name, getattr(link, name))
    since = link.authenticated_ns
    values |= _value("authenticated_since", since if isinstance(since, Absent) else rfc3339(since))
    values |= _value("reason", link.reason or Absent(NOTHING))
    return GatewayPart(state=link.state.value, **values)


def _value(name: str, value: object) -> dict[str, object]:
    """A key with its value, or None and its reason."""
    return {name: None, f"{name}_reason": value.reason} if isinstance(value, Absent) else {name: value}


def setting_item(setting: Setting) -> dict[str, Any]:
    content = {"option": setting.path, "value": setting.shown, "origin": setting.origin}
    return stamped("aegis.config", with_reasons(content, {"value": "decided at start"}))


def past_item(past: PastSet) -> dict[str, Any]:
    names = ("origin", "policy", "version", "digest")
    since = rfc3339(past.since_ms * 1_000_000) if past.since_ms else None
    content: dict[str, Any] = {
        "generation": past.generation,
        "state": past.state,
        "since": since,
        "policies": [dict(zip(names, each, strict=True)) for each in past.policies],
    }
    return stamped("aegis.policy_set", with_reasons(content, {"since": "written by an older agent"}))


def policy_item(policy: dict[str, Any]) -> dict[str, Any]:
    return stamped("aegis.policy", policy)


def probe_of(args: dict[str, Any]) -> Probe:
    """The five-tuple of an explain request. Raises EnvelopeInvalid that names every wrong part."""
    wrong: list[str] = []
    name = args["protocol"].lower()
    numeral = name.isascii() and name.isdecimal() and len(name) <= 3  # int() raises over thousands of digits
    protocol = PROTOCOL_NUMBERS.get(name, int(name) if numeral else -1)
    if not 0 <= protocol <= 255:
        wrong.append(f"protocol {args['protocol'][:40]!r} is unknown")
    addresses: dict[str, bytes] = {}
    for key in ("src", "dst"):
        try:
            addresses[key] = address_bytes(args[key]) if key in args else bytes(16)
        except ValueError:
            wrong.append(f"{key} {args[key][:80]!r} is no address")
    ports = {key: args.get(key, 0) for key in ("src_port", "dst_port")}
    wrong += [f"{key} must be from 0 to 65535" for key, port in ports.items() if not 0 <= port <= 65535]
    direction = args.get("direction", "egress" if "dst" in args else "ingress")
    if direction not in {"egress", "ingress"}:
        wrong.append("direction must be egress or ingress")
    elif ("dst" if direction == "egress" else "src") not in args:
        wrong.append(f"{'dst' if direction == 'egress' else 'src'} is missing: the peer of {direction}")
    if wrong:
        raise EnvelopeInvalid(f"policy.explain: {'; '.join(wrong)}")
    return Probe(
        direction=Direction(direction),
        protocol=protocol,
        source=addresses["src"],
        destination=addresses["dst"],
        source_port=ports["src_port"],
        destination_port=ports["dst_port"],
    )
