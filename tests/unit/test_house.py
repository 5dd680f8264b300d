"""What holds for the tree as a whole: locks, versions, licences, links, the verbs of ./dev."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, tuple[Version, int]]:
    """Version and number of hashes of each package of a lock file."""
    found: dict[str, tuple[Version, int]] = {}
    for block in (ROOT / f"requirements/{name}.txt").read_text().replace("\\\n", " ").splitlines():
        if not block.startswith("#"):
            package, version = block.split()[0].split("==")
            found[canonicalize_name(package)] = (Version(version), block.count("--hash=sha256:"))
    return found


def documents() -> list[Path]:
    skipped = {".venv", "build", "dist", ".git"}
    return sorted(
        path
        for path in ROOT.rglob("*.md")
        if not skipped & set(path.relative_to(ROOT).parts) and ".pytest" not in str(path)
    )


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as the forges make them: lower case, punctuation gone, blanks to hyphens."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", without_code(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower().replace("`", "")).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def without_code(text: str) -> str:
    return re.sub(r"^( *)(```|~~~).*?^\1\2", "", text, flags=re.MULTILINE | re.DOTALL)


def broken_links(path: Path, text: str) -> Iterator[str]:
    """Relative links of a document whose file or anchor is not there."""
    prose = re.sub(r"`[^`\n]*`", "", without_code(text))
    targets = re.findall(r"\]\(\s*<?([^)>\s]+)", prose) + re.findall(
        r"^\[[^\]]+\]:\s*(\S+)", prose, re.MULTILINE
    )
    for target in targets:
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        file_part, _, anchor = target.partition("#")
        there = (path.parent / file_part).resolve() if file_part else path
        if not there.exists():
            yield f"{path.name}: {target}: no such file"
        elif anchor and there.suffix == ".md":
            content = text if there == path else there.read_text()
            if anchor not in anchors(content):
                yield f"{path.name}: {target}: no such heading"


def test_locks_satisfy_the_project() -> None:
    groups = PROJECT["dependency-groups"]
    wanted = {"runtime": PROJECT["project"]["dependencies"], "build": groups["build"], "dev": groups["dev"]}
    wrong = []
    for name, lines in wanted.items():
        lock = locked(name)
        for requirement in map(Requirement, lines):
            version, hashes = lock.get(canonicalize_name(requirement.name), (None, 0))
            if version is None or version not in requirement.specifier:
                wrong.append(f"requirements/{name}.txt: {requirement}, locked {version}")
            if not hashes:
                wrong.append(f"requirements/{name}.txt: {requirement.name} has no hash")
    assert wrong == [], "run requirements/lock"


def test_locks_agree_with_each_other() -> None:
    versions: dict[str, Version] = {}
    for name in ("runtime", "build", "dev"):
        for package, (version, _) in locked(name).items():
            assert versions.setdefault(package, version) == version, package


def test_the_build_needs_what_the_locks_hold() -> None:
    lock = {**locked("runtime"), **locked("build")}
    for requirement in map(Requirement, PROJECT["build-system"]["requires"]):
        assert lock[canonicalize_name(requirement.name)][0] in requirement.specifier


def test_the_package_says_the_version_of_the_project() -> None:
    import aegis

    assert aegis.__version__ == PROJECT["project"]["version"]


def test_bpf_sources_name_both_licences() -> None:
    wrong = [
        path.relative_to(ROOT)
        for path in (ROOT / "bpf").rglob("*.[ch]")
        if "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)" not in path.read_text().splitlines()[0]
    ]
    assert wrong == []


def test_no_file_has_grown_past_reading() -> None:
    wrong = {
        path.relative_to(ROOT).as_posix(): count
        for folder in ("aegis", "bpf", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".pyx", ".c", ".h"}
        if (count := len(path.read_text().splitlines())) > 700
    }
    assert wrong == {}


def test_every_native_module_has_its_stub() -> None:
    native = ROOT / "aegis/_native"
    modules = {path.stem for path in native.glob("*.pyx")}
    modules |= {f"_{path.stem.removesuffix('_build')}" for path in native.glob("*_build.py")}
    assert {name for name in modules if not (native / f"{name}.pyi").exists()} == set()


def test_links_in_the_documents_lead_somewhere() -> None:
    assert [sentence for path in documents() for sentence in broken_links(path, path.read_text())] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("[a](#here-it-is)\n# Here `it` is!\n", 0),
        ("[a](#gone)\n# Here\n", 1),
        ("[a](no-such-file.md)", 1),
        ("[a](https://example.org/x)", 0),
        ("`[a](gone.md)`\n```\n[a](gone.md)\n```\n", 0),
        ("[x]: gone.md\n", 1),
    ],
)
def test_a_broken_link_is_found(tmp_path: Path, text: str, count: int) -> None:
    path = tmp_path / "a.md"
    path.write_text(text)
    assert len(list(broken_links(path, text))) == count


def test_the_verbs_of_dev() -> None:
    said = subprocess.run([ROOT / "dev", "help"], check=True, capture_output=True, text=True).stdout
    verbs = re.findall(r"^  (\w+) ", said, re.MULTILINE)
    assert verbs == ["setup", "demo", "test", "check", "bench", "soak", "fuzz", "wheel", "clean", "help"]
    unknown = subprocess.run([ROOT / "dev", "no-such-verb"], check=False, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "there is no verb no-such-verb" in unknown.stderr


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no_such_kind", "there are: unit native property bpf e2e, or a path below tests/"),
        ("tests/no_such.py::test", "there is no tests/no_such.py::test"),
    ],
)
def test_a_kind_of_test_that_is_not_there(kind: str, said: str) -> None:
    """Said at once: before anything is set up."""
    unknown = subprocess.run([ROOT / "dev", "test", kind], check=False, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert said in unknown.stderr
    assert "setup" not in unknown.stderr
