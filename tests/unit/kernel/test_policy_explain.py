"""Explanations: the verdict, the rule that decides, and steps that say why."""

from __future__ import annotations

import msgspec

from aegis.kernel.policy_explain import explain
from aegis.kernel.policy_image import compile_policies
from aegis.model.flow import Verdict
from aegis.model.net import Direction, address_bytes
from aegis.model.policy import Mode, Packet, PolicySet
from aegis.model.policy_document import parse_document


def policies(**specs: str) -> PolicySet:
    found = PolicySet()
    for name, spec in specs.items():
        text = (
            f"apiVersion: aegis/v1\nkind: HostNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
        found = found.with_policy(parse_document(text.encode()))
    return found


def packet(peer: str, port: int = 23) -> Packet:
    return Packet(direction=Direction.EGRESS, peer=address_bytes(peer), protocol=6, port=port)


def test_a_denial_names_policy_rule_and_the_way() -> None:
    image = compile_policies(
        policies(
            telnet="mode: enforce, priority: 10, egressDeny: [{toCIDRSet: [{cidr: 10.0.0.0/8}], toPorts: [{ports: [{port: 23}]}]}]",
            rest="mode: enforce, egress: [{}]",
        )
    )
    told = explain(image, 7, packet("10.1.2.3"))
    assert (told.verdict, told.policy, told.rule) == (Verdict.DENY, "telnet", "egressDeny[0]")
    assert (told.generation, told.mode) == (7, Mode.ENFORCE)
    assert told.path[0] == "egress tcp to 10.1.2.3 port 23"
    assert told.path[1] == "the peer lies in 10.0.0.0 - 10.255.255.255"
    assert "no rule of a wider prefix comes before it" in told.path[2]
    assert told.path[-1] == "telnet egressDeny[0] (priority 10, enforce) is first of the enforced: denies"
    other = explain(image, 7, packet("10.1.2.3", 80))
    assert (other.verdict, other.policy, other.rule) == (Verdict.ALLOW, "rest", "egress[0]")


def test_an_audit_says_what_would_have_happened() -> None:
    image = compile_policies(
        policies(watch="priority: 1, egressDeny: [{}]", open="mode: enforce, egress: [{}]")
    )
    told = explain(image, 3, packet("192.0.2.1"))
    assert (told.verdict, told.policy, told.mode) == (Verdict.AUDIT, "watch", Mode.OBSERVE)
    assert "would deny" in told.path[-2]
    assert told.path[-1].endswith("first of the enforced: allows")
    alone = explain(compile_policies(policies(watch="egressDeny: [{}]")), 3, packet("::1"))
    assert alone.verdict is Verdict.AUDIT
    assert alone.path[-1] == "no enforced rule matches: the packet passes"


def test_what_the_question_leaves_open_is_said() -> None:
    names = "mode: enforce, egressDeny: [{toFQDNs: [{matchName: a.example}]}]"
    image = compile_policies(policies(web="subject: {unit: a.service}, egressDeny: [{}]", names=names))
    told = explain(image, 3, packet("192.0.2.1"))
    assert told.path[:2] == (
        "asked of no process: what policies say of subjects is left out",
        "asked of an address without a name: rules about names are left out",
    )
    asked = msgspec.structs.replace(packet("192.0.2.1"), subjects=3, names=("a.example",))
    assert explain(image, 3, asked).path[0] == "egress tcp to 192.0.2.1 port 23"


def test_no_match_and_no_policy() -> None:
    image = compile_policies(policies(a="mode: enforce, egressDeny: [{toCIDRSet: [{cidr: 10.0.0.0/8}]}]"))
    told = explain(image, 3, packet("192.0.2.1"))
    assert (told.verdict, told.policy, told.rule, told.mode) == (Verdict.ALLOW, None, None, None)
    assert told.path[-2:] == ("no rule names this address", "no rule matches: allowed")
    none = explain(compile_policies(PolicySet()), 0, packet("192.0.2.1"), ("nothing is enforced: no BPF",))
    assert none.verdict is Verdict.ALLOW
    assert none.path[0] == "nothing is enforced: no BPF"
    assert none.path[-1] == "no policy is applied"
