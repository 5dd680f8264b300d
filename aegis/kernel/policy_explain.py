"""Explains a decision from the compiled image, in the steps the kernel takes."""

from __future__ import annotations

from aegis.kernel.policy_image import NONE, CompiledImage, names_of
from aegis.kernel.policy_walk import ImageReader, Step, Walk
from aegis.model.policy import EVERYBODY, Explanation, Packet, RankedRule


def explain(
    image: CompiledImage,
    generation: int,
    packet: Packet,
    notes: tuple[str, ...] = (),
    *,
    boot_epoch_ms: int = 0,
) -> Explanation:
    """The verdict on `packet`, the rule that decides, and the way there. `notes` are steps that come first."""
    names = names_of(image, packet.names)
    walk = ImageReader(image.data).walk(packet, names=names, boot_epoch_ms=boot_epoch_ms)
    judgement = walk.judgement
    decider = None if judgement.decider is None else image.rules[judgement.decider]
    path = [*notes, *_left_out(image, packet), packet.text]
    if not image.rules:
        path.append("no policy is applied")
    else:
        path += _asked(walk, image)
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


def _left_out(image: CompiledImage, packet: Packet) -> list[str]:
    """What the question leaves open, though it may decide."""
    told = []
    if image.subjects and packet.subjects == EVERYBODY:
        told.append("asked of no process: what policies say of subjects is left out")
    if image.names and not packet.names:
        told.append("asked of an address without a name: rules about names are left out")
    return told


def _asked(walk: Walk, image: CompiledImage) -> list[str]:
    """Every part that was asked, and what its classes said."""
    told = []
    for bit, deadline, first, last in walk.parts:
        whose = f"rules for {image.subjects[bit - 1].text}: " if bit else ""
        whose += "those that expire: " if deadline else ""
        told.append(f"{whose}the peer lies in {first} - {last}")
        steps = [each for each in walk.steps if (each.subject, each.deadline) == (bit, deadline)]
        told += [_step(each, image) for each in steps if not each.named] or ["no rule names this address"]
    return told + [_step(each, image) for each in walk.steps if each.named]


def _step(step: Step, image: CompiledImage) -> str:
    """One class of the walk in words."""
    found = (
        "none of its rules matches"
        if step.any == NONE
        else f"first match {_name(image.rules[step.any >> 1])}"
    )
    if step.enforced not in (step.any, NONE):
        found += f", first enforced match {_name(image.rules[step.enforced >> 1])}"
    if step.named:
        return f"rules about a name of the peer: {found}"
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
        place = "is what is left" if first.default else "is first of all"
        steps.append(f"{_name(first)} {place}: {effect}, but its policy only observes")
        if enforced is None:
            return [*steps, "no enforced rule matches: the packet passes"]
    last = image.rules[enforced]
    if last.default:
        return [*steps, f"no rule matches: {_name(last)} denies"]
    verb = "denies" if last.rule.deny else "allows"
    return [*steps, f"{_name(last)} is first of the enforced: {verb}"]


def _name(each: RankedRule) -> str:
    return f"{each.policy.name} {each.rule.path} (priority {each.policy.priority}, {each.policy.mode.value})"
