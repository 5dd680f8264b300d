"""The policies of this host: documents in, one image in the kernel, on disk before it is in force.

Every change compiles the whole set anew, writes it to disk, puts it into a free slot, and switches by one store. An
error before the store leaves the policy that was; after it, the new one is in force whatever the disk says. Without kernel tables nothing can be enforced, and every change is
refused with the reason: enforcement is never silently off.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec

from aegis.errors import (
    FeatureUnsupported,
    KernelError,
    PolicyError,
    PolicyExists,
    PolicyNotFound,
    StorageError,
)
from aegis.kernel.policy_explain import explain
from aegis.kernel.policy_image import CompiledImage, compile_policies
from aegis.kernel.policy_slots import Hits, PolicySlots
from aegis.kernel.policy_store import PolicyStore
from aegis.model.policy import (
    AppliedPolicy,
    AppliedRule,
    EnforcementState,
    Explanation,
    Mode,
    Policy,
    PolicyReport,
    PolicySet,
    Probe,
    RankedRule,
    RuleName,
)
from aegis.model.policy_document import parse_document

GENERATIONS_KEPT = 64  # whose rule numbers can still be named: records and flows may be older than the policy
_NO_HITS = Hits(packets=0, bytes=0)


class Enforcer:
    """What `aegis.runtime.module.Enforcer` promises. All calls on one thread."""

    def __init__(
        self,
        state_dir: Path,
        slots: PolicySlots | None,
        *,
        reason: str = "",
        hooked: Callable[[], bool] = lambda: True,
    ) -> None:
        """Takes over `slots`; None, with the `reason`, where there are no kernel tables.

        `hooked`: whether any interface carries the programs. Call `start` before anything else.
        """
        self._slots = slots
        self._store = PolicyStore(state_dir)
        self._hooked = hooked
        self._unavailable = "" if slots is not None else reason or "no policy tables in the kernel"
        self._stale = ""
        self._uncommitted = ""  # why the set in force is not the committed one
        self._policies = PolicySet()
        self._image = compile_policies(self._policies)
        self._generation = 0
        self._names: OrderedDict[int, tuple[RankedRule, ...]] = OrderedDict()

    def start(self) -> EnforcementState:
        """Take over what the kernel enforces, or load what was committed when it enforces nothing (after a boot).

        Never raises: when the files cannot be read or the kernel refuses, its policy stays as it is and `state` says
        `stale` (a policy is in force that cannot be named) or `unavailable` (none is), and why.
        """
        if self._slots is None:
            self._name_committed()
            return self.state()
        self._generation = self._slots.position().generation
        in_force = bool(self._generation)
        try:
            stored = self._store.load(self._generation or None)
            if stored is None:
                return self.state()
            policies = stored.decode()
            image = compile_policies(policies)
            if in_force and stored.image_digest == image.digest and self._slots.holds(image):
                self._adopt(policies, image)
                if not self._store.committed(self._generation):
                    self._commit()
            else:
                # A boot; a compiler that numbers rules otherwise than the one that made the kernel's image; or a state
                # word whose image is gone (its pin removed), by which the kernel denies every packet.
                self._switch(policies, image)
        except (StorageError, PolicyError, KernelError) as error:
            self._stale = str(error)
        return self.state()

    def _name_committed(self) -> None:
        """What would be loaded if it could be: `list` shows it, and `state` says that nothing is enforced."""
        with contextlib.suppress(StorageError, PolicyError):
            stored = self._store.load(None)
            if stored is not None:
                self._policies = stored.decode()
                self._image = compile_policies(self._policies)

    def check(self, document: bytes, name: str = "<document>") -> PolicyReport:
        """Whether the document could be applied now. Raises PolicyInvalid, PolicyExists or PolicyUnenforceable."""
        policy = parse_document(document)
        self._leave_to_its_owner(policy)
        image = compile_policies(self._policies.with_policy(policy))
        return PolicyReport(
            name=policy.name,
            version=policy.version,
            mode=policy.mode,
            priority=policy.priority,
            rules=len(policy.rules),
            image_bytes=len(image.data),
        )

    def apply(self, document: bytes, name: str = "<document>", *, origin: str = "local") -> AppliedPolicy:
        """Put the policy into the set, in place of the one of its name, and switch the kernel.

        `origin` is who orders it: a policy of another origin is not replaced, that is PolicyExists.
        Raises PolicyInvalid, PolicyUnenforceable, StorageError, or KernelError; the policy that was stays then. A set
        that is in force and could not be committed is no error: `state` says that it is not durable.
        """
        policy = msgspec.structs.replace(parse_document(document), origin=origin)
        self._leave_to_its_owner(policy)
        self._change(self._policies.with_policy(policy))
        return self._applied(policy, {})

    def _leave_to_its_owner(self, policy: Policy) -> None:
        for held in self._policies:
            if held.name == policy.name and held.origin != policy.origin:
                raise PolicyExists(
                    "metadata.name",
                    f"the policy {held.name} in force is of origin {held.origin}, and this one of {policy.origin}",
                    held_by=held.origin,
                    hint="choose another name, or remove that one first where it came from",
                )

    def remove(self, name: str, *, origin: str | None = None) -> AppliedPolicy:
        """Take one policy out; what it had hit until the switch is in the answer. Raises PolicyNotFound, and as `apply`.

        With `origin`, only one of that origin is found.
        """
        gone, image = self._policies.find(name), self._image
        if origin is not None and gone.origin != origin:
            raise PolicyNotFound(
                name, f"no policy of this name is of origin {origin}, but one of {gone.origin}"
            )
        slot = None if self._slots is None else self._slots.position().slot
        hits = self.hits()
        self._change(self._policies.without(name))
        with contextlib.suppress(
            KernelError
        ):  # it is removed: then what it had hit just before is the answer
            hits = self._hits_of(image, slot)  # the last ones: no packet is judged by it any more
        return self._applied(gone, hits)

    def list(self) -> tuple[AppliedPolicy, ...]:
        """Every policy that is kept, with what its denying rules have hit since the last change of the set.

        Raises StorageError while it is `stale`: what the kernel enforces cannot be named.
        """
        self._expect_named()
        hits = self.hits()
        return tuple(self._applied(policy, hits) for policy in self._policies)

    def hits(self) -> dict[tuple[str, str], Hits]:
        """Packets and bytes by (policy, rule) that were denied, or would have been, in this generation."""
        return {} if self._stale else self._hits_of(self._image)

    def _hits_of(self, image: CompiledImage, slot: int | None = None) -> dict[tuple[str, str], Hits]:
        if self._slots is None:
            return {}
        ranks = tuple(rank for rank, each in enumerate(image.rules) if each.rule.deny)
        found = self._slots.hits(ranks, slot)
        return {(image.rules[rank].policy.name, image.rules[rank].rule.path): found[rank] for rank in ranks}

    def explain(self, probe: Probe) -> Explanation:
        """What the policy in force says about a packet, step by step. Raises StorageError while it is `stale`."""
        self._expect_named()
        found = self._judged()
        notes = (f"nothing is enforced: {found.reason}",) if found.state == "unavailable" else ()
        return explain(self._image, self._generation, probe.packet, notes)

    def _expect_named(self) -> None:
        if self._stale:
            where = f"the policy in the kernel (generation {self._generation})"
            raise StorageError(
                f"{where if self._generation else 'the policy that was kept'} cannot be named: {self._stale}",
                hint="apply the policies again",
            )

    def rule(self, generation: int, rule: int) -> RuleName | None:
        """The rule that a record or a flow of that generation names by `rule` (rank + 1); None when unknown."""
        rules = self._names.get(generation, ())
        if not 0 < rule <= len(rules):
            return None
        found = rules[rule - 1]
        return RuleName(
            policy=found.policy.name, rule=found.rule.path, mode=found.policy.mode, deny=found.rule.deny
        )

    def state(self) -> EnforcementState:
        """Whether and what the kernel enforces. Tries again to commit what could not be committed."""
        if self._uncommitted and not self._stale:
            self._commit()
        found = self._judged()
        if not self._uncommitted:
            return found
        told = f"in force, but a boot would bring back the policies before: {self._uncommitted}"
        reason = f"{found.reason}; {told}" if found.reason else told
        return msgspec.structs.replace(found, reason=reason, durable=False)

    def _judged(self) -> EnforcementState:
        mode = _mode(self._policies)
        if self._unavailable:
            return EnforcementState(state="unavailable", generation=0, reason=self._unavailable)
        if self._stale and not self._generation:
            return EnforcementState(state="unavailable", generation=0, reason=self._stale)
        if self._stale:
            return EnforcementState(state="stale", generation=self._generation, reason=self._stale)
        if mode is None:
            return EnforcementState(state="none", generation=self._generation)
        if not self._hooked():
            return EnforcementState(
                state="unavailable",
                generation=self._generation,
                mode=mode,
                reason="no interface carries the packet programs",
            )
        return EnforcementState(
            state="enforcing" if mode is Mode.ENFORCE else "observing", generation=self._generation, mode=mode
        )

    def close(self) -> None:
        """Leave; the kernel goes on enforcing what it has."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None
            self._unavailable = "the enforcer is closed"

    def _change(self, policies: PolicySet) -> None:
        self._switch(policies, compile_policies(policies))

    def _switch(self, policies: PolicySet, image: CompiledImage) -> None:
        """To disk, to the kernel, to memory: in this order, so that what is in force can always be named."""
        if self._slots is None:
            raise FeatureUnsupported(
                "enforce", "policy", detail=self._unavailable, hint="aegis doctor says what is missing"
            )
        in_force = self._slots.position().generation
        generation = max(self._generation, in_force, self._store.last_generation()) + 1
        self._store.prepare(generation, image.digest, policies, in_force=in_force)
        try:
            position = self._slots.switch(image, generation)
        except BaseException:
            # What came after the store (an interrupt) does not undo it, and the file names what is in force.
            if self._slots.position().generation != generation:
                self._store.discard()
            raise
        self._generation = position.generation
        self._stale = ""
        self._adopt(policies, image)
        self._commit()

    def _commit(self) -> None:
        """Make the set in force the one that a boot loads. What fails is tried again by `state`."""
        try:
            self._store.keep(self._generation, self._image.digest, self._policies)
        except StorageError as error:
            self._uncommitted = str(error)
        else:
            self._uncommitted = ""

    def _adopt(self, policies: PolicySet, image: CompiledImage) -> None:
        self._policies, self._image = policies, image
        self._names[self._generation] = image.rules
        while len(self._names) > GENERATIONS_KEPT:
            self._names.popitem(last=False)

    def _applied(self, policy: Policy, hits: dict[tuple[str, str], Hits]) -> AppliedPolicy:
        return AppliedPolicy(
            name=policy.name,
            version=policy.version,
            mode=policy.mode,
            priority=policy.priority,
            origin=policy.origin,
            generation=self._generation,
            digest=hashlib.sha256(policy.document).hexdigest(),
            rules=tuple(
                AppliedRule(
                    rule=rule.path,
                    direction=rule.direction,
                    deny=rule.deny,
                    packets=hits.get((policy.name, rule.path), _NO_HITS).packets,
                    bytes=hits.get((policy.name, rule.path), _NO_HITS).bytes,
                )
                for rule in policy.rules
            ),
        )


def _mode(policies: PolicySet) -> Mode | None:
    """Enforce when any policy does; None without policies."""
    modes = {policy.mode for policy in policies}
    return Mode.ENFORCE if Mode.ENFORCE in modes else Mode.OBSERVE if modes else None
