"""Subjects as patterns: what each selector means, how they join, and what cannot be enforced."""

from __future__ import annotations

import pwd

import pytest

from aegis.errors import PolicyUnenforceable
from aegis.kernel import abi
from aegis.kernel.subject_patterns import CompiledSubjects, compile_subjects, users_of
from aegis.model.policy_selectors import Subject


def mask(made: CompiledSubjects, cgroup: str = "/", exe: str = "/bin/x", uid: int = 0) -> int:
    def parts(path: str) -> list[bytes]:
        return [part.encode() for part in path.split("/") if part]

    return made.mask(parts(cgroup), parts(exe)[::-1], uid)


@pytest.mark.parametrize(
    ("unit", "path", "matches"),
    [
        ("sshd.service", "/system.slice/sshd.service", True),
        ("sshd.service", "/system.slice/system-sshd.slice/sshd.service/below", True),
        ("sshd.service", "/system.slice", False),
        ("sshd.service", "/sshd.service", True),
        ("sshd.service", "/user.slice/user@1.service/sshd.service", False),
        ("sshd.service", "/machine.slice/box.scope/system.slice/sshd.service", False),
        ("sshd.service", "/lxc/sshd.service", False),
        ("getty@*.service", "/system.slice/system-getty.slice/getty@tty1.service", True),
        ("system.slice", "/system.slice/sshd.service", True),
        ("user-*.slice", "/user.slice/user-7.slice/session-1.scope", True),
        ("user-*.slice", "/user.slice/session.scope", False),
    ],
)
def test_units(unit: str, path: str, *, matches: bool) -> None:
    assert mask(compile_subjects([Subject(unit=(unit,))]), path) == (3 if matches else 1)


@pytest.mark.parametrize(
    ("cgroup", "path", "matches"),
    [
        ("/a/b", "/a/b", True),
        ("/a/b", "/a/b/c", True),
        ("/a/b", "/a/bc", False),
        ("/a/b", "/a", False),
        ("/a/*.scope", "/a/x.scope/y", True),
        ("/a/**/z", "/a/b/c/z/d", True),
        ("/", "/anything", True),
    ],
)
def test_cgroups(cgroup: str, path: str, *, matches: bool) -> None:
    assert mask(compile_subjects([Subject(cgroup=(cgroup,))]), path) == (3 if matches else 1)


@pytest.mark.parametrize(
    ("exe", "path", "matches"),
    [
        ("/usr/bin/curl", "/usr/bin/curl", True),
        ("/usr/bin/curl", "/usr/bin/curl/x", False),
        ("/usr/bin/curl", "/bin/curl", False),
        ("/usr/bin/curl", "/evil/usr/bin/curl", False),
        ("/usr/bin/python3*", "/usr/bin/python3.11", True),
        ("/opt/**", "/opt/a/b", True),
        ("/opt/**/tool", "/opt/tool", True),
        ("/opt/*/tool", "/opt/tool", False),
    ],
)
def test_executables(exe: str, path: str, *, matches: bool) -> None:
    assert mask(compile_subjects([Subject(exe=(exe,))]), exe=path) == (3 if matches else 1)


def test_all_kinds_together_and_any_of_each() -> None:
    made = compile_subjects(
        [
            Subject(unit=("a.service", "b.service"), cgroup=("/x.slice",), exe=("/bin/x",), user=("7", "8")),
            Subject(),
            Subject(user=("8",)),
        ]
    )
    assert mask(made, "/x.slice/a.service", uid=7) == 0b0111
    assert mask(made, "/x.slice/b.service", uid=8) == 0b1111
    assert mask(made, "/y.slice/a.service", uid=7) == 0b0101
    assert mask(made, "/x.slice/a.service", exe="/bin/y", uid=7) == 0b0101
    assert mask(made, "/x.slice/a.service", uid=9) == 0b0101
    assert mask(made, "/x.slice/c.service", uid=8) == 0b1101


def test_what_nobody_asks_for_is_not_there() -> None:
    made = compile_subjects([Subject(user=("7",))])
    assert (made.cgroups, made.exes, made.user_base) == (None, None, 1)
    none = compile_subjects([])
    assert (none.subjects, none.users, mask(none)) == (0, None, 1)


def test_users() -> None:
    root = pwd.getpwuid(0).pw_name
    assert users_of(root) == (0,)
    assert users_of("123") == (123,)
    assert users_of("nobody at all") == ()
    assert 0 in users_of(root[:-1] + "*")
    asked = compile_subjects([Subject(user=("web*",))], users=lambda pattern: {"web*": (5, 6)}[pattern])
    assert asked.users == {5: 3, 6: 3}


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (Subject(unit=("sshd",)), "a unit's name ends in"),
        (Subject(unit=("a/b.service",)), "a unit's name ends in"),
        (Subject(cgroup=("a/b",)), "begins with /"),
        (Subject(cgroup=("/a/",)), "does not end with it"),
        (Subject(exe=("/a//b",)), "is empty"),
        (Subject(exe=("/a/../b",)), "is empty, . or .."),
        (Subject(exe=("/a/b*c*d",)), "more than one"),
        (Subject(cgroup=("/" + "a" * (abi.COMPONENT_BYTES + 1),)), "124 bytes in one component"),
        (Subject(cgroup=("/" + "a" * (abi.AFFIX_BYTES + 1) + "*",)), "64 bytes before or after"),
    ],
)
def test_what_cannot_be_enforced(subject: Subject, reason: str) -> None:
    with pytest.raises(PolicyUnenforceable, match=reason) as caught:
        compile_subjects([subject])
    assert caught.value.path.startswith("spec.subject.")


def test_more_than_63() -> None:
    subjects = [Subject(user=(str(number),)) for number in range(64)]
    with pytest.raises(PolicyUnenforceable, match="64 different subjects"):
        compile_subjects(subjects)
    assert mask(compile_subjects(subjects[:63]), uid=62) == 1 | 1 << 63
