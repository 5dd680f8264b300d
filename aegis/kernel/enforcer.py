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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from aegis.errors import (
    FeatureUnsupported,
    KernelError,
    PolicyError,
    PolicyExists,
    PolicyNotFound,
    PolicyOnTrial,
    PolicyStale,
    PolicyUnenforceable,
    StorageError,
)
from aegis.kernel.policy_explain import explain
from aegis.kernel.policy_image import CompiledImage, compile_policies
from aegis.kernel.policy_sides import SidePlan, Sides
from aegis.kernel.policy_slots import Hits, PolicySlots, Trial
from aegis.kernel.policy_store import PolicyStore, StoredSet
from aegis.model.policy import (
    AppliedPolicy,
    AppliedRule,
    EnforcementState,
    Explanation,
    Mode,
    PastSet,
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

_PastState = Literal["trial", "in_force", "past"]
Seed = Callable[[Any], None]  # given anything with `map(name)`
Clocks = Callable[[], tuple[int, int]]  # Unix time and time since boot, milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _InForce:
    """A set of policies and what was made of it."""

    policies: PolicySet
    image: CompiledImage
    plan: SidePlan


class Enforcer:
    """What `aegis.runtime.module.Enforcer` promises. All calls on one thread."""

    def __init__(
        self,
        state_dir: Path,
        slots: PolicySlots | None,
        *,
        reason: str = "",
        hooked: Callable[[], bool] = lambda: True,
        sides: Sides | None = None,
        clocks: Clocks | None = None,
        grow: Callable[[int, Seed], PolicySlots] | None = None,
    ) -> None:
        """Takes over `slots`; None, with the `reason`, where there are no kernel tables.

        `hooked`: whether any interface carries the programs. `sides`: what the kernel is able to beside addresses and
        services. Without `clocks` no policy may expire. `grow` loads the programs again for images of so many bytes, after
        it gave their tables to its second argument, and returns the slots from then on; without it images do not grow. Call `start` before anything else.
        """
        self._sides = sides or Sides()
        self._clocks = clocks
        self._grow = grow
        self._epoch_ms = 0  # Unix time at which the boot clock was 0: never less than it was in this boot
        self._slots = slots
        self._store = PolicyStore(state_dir)
        self._hooked = hooked
        self._unavailable = "" if slots is not None else reason or "no policy tables in the kernel"
        self._stale = ""
        self._uncommitted = ""  # why the set in force is not the committed one
        self._policies = PolicySet()
        self._image = compile_policies(self._policies)
        self._plan = SidePlan(plans={}, name_classes=())
        self.undone = False  # the last trial ended at its deadline, and nothing was applied since
        self._trial: Trial | None = None
        self._before: _InForce | None = None  # what the trial goes back to
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
        try:
            self._trial = self._slots.trial()
            if self._trial is not None and self._over():
                self._revert(self._slots)
                self.undone = True
        except KernelError as error:
            self._stale = str(error)
            return self.state()
        self._generation = self._slots.position().generation
        in_force = bool(self._generation)
        try:
            stored = self._store.load(self._generation or None)
            if stored is None:
                return self.state()
            policies = stored.decode()
            if in_force:
                self._epoch_ms = stored.boot_epoch_ms
            else:
                self._see_time(stored.wall_ms)
            image, plan = self._compiled(policies)
            if in_force and stored.image_digest == image.digest and self._slots.holds(image):
                self._before = self._stored_before() if self._trial is not None else None
                self._adopt(policies, image, plan)
                if self._trial is None and not self._store.committed(self._generation):
                    self._commit()
            elif self._trial is not None:  # it cannot be confirmed as it is
                self._revert(self._slots)
                return self.start()
            else:
                # A boot; a compiler that numbers rules otherwise than the one that made the kernel's image; or a state
                # word whose image is gone (its pin removed), by which the kernel denies every packet.
                self._switch(policies)
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
        """Whether the document could be applied now. Raises PolicyInvalid, PolicyExists, PolicyStale or PolicyUnenforceable."""
        policy = parse_document(document)
        self._leave_to_its_owner(policy)
        self._refuse_stale(policy)
        image, _ = self._compiled(self._policies.with_policy(policy))
        return PolicyReport(
            name=policy.name,
            version=policy.version,
            mode=policy.mode,
            priority=policy.priority,
            rules=len(policy.rules),
            image_bytes=len(image.data),
        )

    def apply(
        self, document: bytes, name: str = "<document>", *, origin: str = "local", trial_ms: int = 0
    ) -> AppliedPolicy:
        """Put the policy into the set, in place of the one of its name, and switch the kernel.

        `origin` is who orders it: a policy of another origin is not replaced, that is PolicyExists. With `trial_ms` it is
        on trial: unless `confirm` comes within that time, the kernel goes back by itself. Meanwhile there is no other
        change, that is PolicyOnTrial.
        Raises PolicyInvalid, PolicyUnenforceable, PolicyStale, StorageError, or KernelError; the policy that was stays then. A set
        that is in force and could not be committed is no error: `state` says that it is not durable.
        """
        policy = msgspec.structs.replace(parse_document(document), origin=origin)
        self._leave_to_its_owner(policy)
        self._refuse_stale(policy)
        self._switch(self._policies.with_policy(policy), trial_ms)
        return self._applied(policy, {})

    def confirm(self) -> EnforcementState:
        """Make the policy on trial the committed one: the same image, without a deadline, by one store.

        Raises PolicyNotFound where nothing is on trial (any more), or KernelError; the trial goes on then.
        """
        self.settle()
        slots, image, plan, generation = self._slots, self._image, self._plan, self._generation
        confirmed = None
        if slots is not None and self._trial is not None:
            confirmed = slots.confirm(
                image,
                self._over,
                put=lambda slot: self._sides.put(slot, generation, plan),
                forget=self._sides.forget,
            )
        if confirmed is None:
            self.settle()
            raise PolicyNotFound("trial", "nothing is on trial", hint="aegis policy history says what was")
        self._trial = self._before = None
        self._commit()
        return self.state()

    def rollback(self) -> EnforcementState:
        """Undo the trial, or else bring back the set that was committed before the one in force.

        Raises PolicyNotFound where there is none, and as `apply`.
        """
        self.settle()
        if self._slots is not None and self._trial is not None:
            self._undo(self._slots)
            return self.state()
        earlier = [each for each in self._store.past() if each.generation < self._generation]
        if not earlier:
            raise PolicyNotFound("history", "no set was in force before this one")
        self._switch(earlier[-1].decode())
        return self.state()

    def settle(self) -> bool:
        """Take note that the kernel has ended a trial; whether it has. Raises KernelError."""
        if self._slots is None or self._trial is None or not self._over():
            return False
        self._undo(self._slots)
        self.undone = True
        return True

    def history(self) -> tuple[PastSet, ...]:
        """The sets in force before, oldest first, then the one that is, and the one on trial."""
        self.settle()
        before = self._trial.previous.generation if self._trial is not None else self._generation
        sets: list[tuple[StoredSet | None, _PastState]] = [
            (each, "past") for each in self._store.past() if each.generation != before
        ]
        with contextlib.suppress(StorageError):
            if before:
                sets.append((self._store.load(before), "in_force"))
            if self._trial is not None:
                sets.append((self._store.load(self._generation), "trial"))
        found = []
        for stored, state in sets:
            with contextlib.suppress(StorageError):
                if stored is not None:
                    found.append(_past(stored, state))
        return tuple(found)

    def documents(self) -> tuple[tuple[str, str, bytes], ...]:
        """Origin, name and document of every policy in force. Raises StorageError while it is `stale`."""
        self.settle()
        if self._stale:
            raise StorageError(f"the policy in the kernel cannot be named: {self._stale}")
        return tuple((each.origin, each.name, each.document) for each in self._policies)

    def _over(self) -> bool:
        """Whether the trial's deadline has passed."""
        if self._trial is None:
            return False
        return self._clocks is None or self._clocks()[1] * 1_000_000 >= self._trial.deadline_ns

    def _undo(self, slots: PolicySlots) -> None:
        """To the kernel, to memory, to disk: a trial that ended is not named by a file any more."""
        before = self._before
        self._revert(slots)
        self._generation = slots.position().generation
        if before is not None:
            self._adopt(before.policies, before.image, before.plan)

    def _revert(self, slots: PolicySlots) -> None:
        slots.revert(self._sides.forget)
        self._trial = self._before = None
        self._store.discard()

    def _stored_before(self) -> _InForce:
        """What the trial in the kernel goes back to, of the files. Raises StorageError or PolicyUnenforceable."""
        assert self._trial is not None
        generation, policies = self._trial.previous.generation, PolicySet()
        stored = self._store.load(generation) if generation else None
        if stored is not None:
            policies = stored.decode()
        image, plan = self._compiled(policies)
        if generation:
            self._names[generation] = image.rules
        return _InForce(policies=policies, image=image, plan=plan)

    def _refuse_stale(self, policy: Policy) -> None:
        for held in self._policies:
            if held.name == policy.name and policy.version < held.version:
                raise PolicyStale(
                    "metadata.version",
                    f"version {policy.version} is older than {held.version}, which is in force",
                )
        if policy.expires_ms is None:
            return
        if self._clocks is None:
            raise PolicyUnenforceable("spec.expiresAt", "nothing here knows the time")
        if policy.expires_ms <= self._see_time():
            raise PolicyStale("spec.expiresAt", "the policy has expired")

    def _see_time(self, least_ms: int = 0) -> int:
        """The Unix time, which is `least_ms` at least and in this boot never less than it was before."""
        if self._clocks is None:
            return least_ms
        wall_ms, boot_ms = self._clocks()
        self._epoch_ms = max(self._epoch_ms, max(wall_ms, least_ms) - boot_ms)
        return self._epoch_ms + boot_ms

    def _compiled(self, policies: PolicySet) -> tuple[CompiledImage, SidePlan]:
        """The set's image, by the time as it is known, and what it needs beside it. Raises PolicyUnenforceable."""
        compile_policies(policies, features=self._sides.features)  # before anything is planned for it
        plan = self._sides.plan(policies)
        image = compile_policies(
            policies,
            name_classes=plan.name_classes,
            boot_epoch_ms=self._epoch_ms,
            features=self._sides.features,
        )
        return image, plan

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
        self.settle()
        gone, image = self._policies.find(name), self._image
        if origin is not None and gone.origin != origin:
            raise PolicyNotFound(
                name, f"no policy of this name is of origin {origin}, but one of {gone.origin}"
            )
        generation = self._generation
        hits = self.hits()
        self._switch(self._policies.without(name))
        with contextlib.suppress(
            KernelError
        ):  # it is removed: then what it had hit just before is the answer
            hits = self._hits_of(image, generation)  # the last ones: no packet is judged by it any more
        return self._applied(gone, hits)

    def list(self) -> tuple[AppliedPolicy, ...]:
        """Every policy that is kept, with what its denying rules have hit since the last change of the set.

        Raises StorageError while it is `stale`: what the kernel enforces cannot be named.
        """
        self.settle()
        self._expect_named()
        hits = self.hits()
        return tuple(self._applied(policy, hits) for policy in self._policies)

    def hits(self) -> dict[tuple[str, str], Hits]:
        """Packets and bytes by (policy, rule) that were denied, or would have been, in this generation."""
        return {} if self._stale else self._hits_of(self._image)

    def _hits_of(self, image: CompiledImage, generation: int | None = None) -> dict[tuple[str, str], Hits]:
        if self._slots is None:
            return {}
        ranks = tuple(rank for rank, each in enumerate(image.rules) if each.rule.deny)
        found = self._slots.hits(ranks, generation)
        return {(image.rules[rank].policy.name, image.rules[rank].rule.path): found[rank] for rank in ranks}

    def explain(self, probe: Probe) -> Explanation:
        """What the policy in force says about a packet, step by step. Raises StorageError while it is `stale`."""
        self.settle()
        self._expect_named()
        found = self._judged()
        notes = (f"nothing is enforced: {found.reason}",) if found.state == "unavailable" else ()
        packet = msgspec.structs.replace(probe.packet, now_ms=self._see_time())
        return explain(self._image, self._generation, packet, notes, boot_epoch_ms=self._epoch_ms)

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
        with contextlib.suppress(KernelError):  # the kernel itself has ended it
            self.settle()
        if self._uncommitted and not self._stale:
            self._commit()
        found = self._judged()
        if self._trial is not None and found.state in {"observing", "enforcing", "none"}:
            by = self._epoch_ms + self._trial.deadline_ns // 1_000_000
            found = msgspec.structs.replace(found, state="trial", confirm_by_ms=by)
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

    def _refuse_beside_a_trial(self, trial_ms: int) -> None:
        self.settle()
        if self._trial is not None:
            raise PolicyOnTrial(
                "trial",
                f"generation {self._generation} is on trial",
                hint="aegis policy confirm or aegis policy rollback ends it",
            )
        if trial_ms and self._clocks is None:
            raise PolicyUnenforceable("trial", "nothing here knows the time")
        if trial_ms and self._stale:
            raise PolicyUnenforceable("trial", f"what it would go back to cannot be named: {self._stale}")

    def _switch(self, policies: PolicySet, trial_ms: int = 0) -> None:
        """To disk, to the kernel, to memory: in this order, so that what is in force can always be named."""
        if self._slots is None:
            raise FeatureUnsupported(
                "enforce", "policy", detail=self._unavailable, hint="aegis doctor says what is missing"
            )
        self._refuse_beside_a_trial(trial_ms)
        wall_ms = self._see_time()
        image, plan = self._compiled(policies)
        position = self._slots.position()
        in_force = position.generation
        used = (in_force, self._generation, self._store.last_generation(), self._slots.last_generation())
        generation = max(used) + 1
        if (
            in_force and generation % 2 == in_force % 2
        ):  # the kernel keeps the counts of two that follow each other
            generation += 1
        slots = self._with_room(image)
        self._store.prepare(
            generation,
            image.digest,
            policies,
            in_force=in_force,
            boot_epoch_ms=self._epoch_ms,
            wall_ms=wall_ms,
        )
        beside = position.slot if trial_ms and in_force else None
        deadline_ns = 0
        if trial_ms and self._clocks is not None:
            deadline_ns = (self._clocks()[1] + trial_ms) * 1_000_000
        try:
            position = slots.switch(
                image,
                generation,
                put=lambda slot: self._sides.put(slot, generation, plan, beside),
                forget=self._sides.forget,
                deadline_ns=deadline_ns,
            )
        except BaseException:
            # What came after the store (an interrupt) does not undo it, and the file names what is in force.
            if slots.position().generation != generation:
                self._store.discard()
            raise
        if deadline_ns:
            self._before = _InForce(policies=self._policies, image=self._image, plan=self._plan)
            self._trial = slots.trial()
        self._generation = position.generation
        self.undone = False
        self._stale = ""
        self._adopt(policies, image, plan)
        if not deadline_ns:
            self._commit()

    def _with_room(self, image: CompiledImage) -> PolicySlots:
        """The slots, after the programs were loaded for larger images where this one needs them."""
        slots = self._slots
        assert slots is not None
        if image.room <= slots.room:
            return slots
        # What is in force goes on with the new programs too, so it must be known.
        in_force = slots.position().generation
        if self._grow is None or (in_force and in_force not in self._names):
            raise PolicyUnenforceable(
                "spec",
                f"the compiled policies need {image.room} bytes, the programs have room for {slots.room}",
            )
        self._slots = self._grow(image.room, lambda tables: slots.seed(tables, self._image))
        slots.close()
        return self._slots

    def _commit(self) -> None:
        """Make the set in force the one that a boot loads. What fails is tried again by `state`."""
        try:
            self._store.keep(
                self._generation,
                self._image.digest,
                self._policies,
                boot_epoch_ms=self._epoch_ms,
                wall_ms=self._see_time(),
            )
        except StorageError as error:
            self._uncommitted = str(error)
        else:
            self._uncommitted = ""

    def _adopt(self, policies: PolicySet, image: CompiledImage, plan: SidePlan) -> None:
        self._policies, self._image, self._plan = policies, image, plan
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


def _past(stored: StoredSet, state: _PastState) -> PastSet:
    """What the history tells of a set."""
    policies = tuple(
        (each.origin, each.name, each.version, hashlib.sha256(each.document).hexdigest())
        for each in stored.decode()
    )
    return PastSet(generation=stored.generation, since_ms=stored.wall_ms, state=state, policies=policies)


def _mode(policies: PolicySet) -> Mode | None:
    """Enforce when any policy does; None without policies."""
    modes = {policy.mode for policy in policies}
    return Mode.ENFORCE if Mode.ENFORCE in modes else Mode.OBSERVE if modes else None
