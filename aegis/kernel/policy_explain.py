"""Explains a decision from the compiled image, in the steps the kernel takes."""

from __future__ import annotations

from aegis.kernel.policy_image import NONE, CompiledImage
from aegis.kernel.policy_walk import ImageReader, Step
from aegis.model.policy import Explanation, Packet, RankedRule


def explain(
    image: CompiledImage, generation: int, packet: Packet, notes: tuple[str, ...] = ()
) -> Explanation:
    """The verdict on `packet`, the rule that decides, and the way there. `notes` are steps that come first."""
    walk = ImageReader(image.data).walk(packet)
    judgement = walk.judgement
    decider = None if judgement.decider is None else image.rules[judgement.decider]
    path = [*notes, packet.text]
    if not image.rules:
        path.append("no policy is applied")
    else:
        path.append(f"the peer lies in {walk.first} - {walk.last}")
        path += [_step(step, image) for step in walk.steps] or ["no rule names this address"]
    if image.rules and judgement.any is None:
        path.append("no rule matches: allowed")
    else:
        path += _outcome(image, judgement.enforced, judgement.any)
    return Explanation(
        verdict=judgement.verdict,
        policy=None if decider is None else decider.policy.name,
        rule=None if decider is None else decider.rule.path,
        generation=generation,
        mode=None if decider is None else decider.policy.mode,
        path=tuple(path),
    )


def _step(step: Step, image: CompiledImage) -> str:
    """One class of the walk in words."""
    found = (
        "none of its rules matches"
        if step.any == NONE
        else f"first match {_name(image.rules[step.any >> 1])}"
    )
    if step.enforced not in (step.any, NONE):
        found += f", first enforced match {_name(image.rules[step.enforced >> 1])}"
    if step.ends:
        end = (
            "; no wider prefix has rules"
            if step.above == NONE
            else "; no rule of a wider prefix comes before it"
        )
    else:
        end = "; a wider prefix may have a rule that comes before it" if step.any != NONE else ""
    return f"prefix class {step.owner}: {found}{end}"


def _outcome(image: CompiledImage, enforced: int | None, best: int | None) -> list[str]:
    """What the two first matches mean together."""
    if best is None:
        return []
    steps = []
    first = image.rules[best]
    if enforced is None or enforced != best:
        effect = "would deny" if first.rule.deny else "would allow"
        steps.append(f"{_name(first)} is first of all: {effect}, but its policy only observes")
        if enforced is None:
            return [*steps, "no enforced rule matches: the packet passes"]
    last = image.rules[enforced]
    verb = "denies" if last.rule.deny else "allows"
    return [*steps, f"{_name(last)} is first of the enforced: {verb}"]


def _name(each: RankedRule) -> str:
    return f"{each.policy.name} {each.rule.path} (priority {each.policy.priority}, {each.policy.mode.value})"
