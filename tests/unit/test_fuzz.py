"""`./dev fuzz`: the entries hold for their corpora, branches are counted right, planted bugs and crashes are told."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from aegis._native import transcode
from tests.fuzz import entry, run
from tests.fuzz.branches import ROOT, Branches

MUTATIONS = 500
# Inputs a second differ by a thousand times; these run whole sessions or requests for each.
SLOW = {"agent_session", "api", "auth", "error", "gateway_session", "push", "registration"}
SUBJECT = """
def one(data):
    if data:
        kind = "more" if len(data) > 3 else "less"
        for _ in data:
LONG
    else:
        kind = "none"
    assert kind
    while data:
        data = data[1:]
    try:
        return [each for each in data if each]
    except ValueError:
        return kind
""".replace(
    "LONG", "            kind = kind[:]\n" * 90
)  # so long that jumps over it stand behind EXTENDED_ARG


@pytest.mark.parametrize("name", entry.names())
def test_an_entry_holds_for_its_corpus_and_mutations_of_it(name: str) -> None:
    one, seeds = entry.load(name), entry.corpus(name)
    assert len(seeds) >= 3
    count = MUTATIONS // 5 if name in SLOW else MUTATIONS
    for data in [b"", *seeds, *entry.mutations(seeds, count, seed=len(name))]:
        one(data)


@pytest.mark.parametrize("name", [name for name in entry.names() if run.in_python(run.parsers(name))])
def test_the_corpora_reach_the_parsers(name: str) -> None:
    """Most of the goal is in the corpus that is kept; the fuzzer's own does the rest."""
    branches = Branches(run.in_python(run.parsers(name)))
    branches.run(entry.load(name), [b"", *entry.corpus(name)])
    assert branches.share >= run.GOAL - 0.1, branches.missing()


def test_branches_are_counted_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "subject.py"
    file.write_text(SUBJECT)
    monkeypatch.setattr("tests.fuzz.branches.ROOT", tmp_path)
    made: dict[str, object] = {}
    exec(compile(SUBJECT, str(file), "exec"), made)
    one = made["one"]
    assert callable(one)
    shares = []
    for inputs in ([], [b""], [b"", b"ab"], [b"", b"ab", b"abcd"]):
        branches = Branches(["subject.py"])
        branches.run(one, inputs)
        shares.append(len(branches.taken))
    # if, if, for, while at its head and at its end, and the list's for and if; not the assert, not the except.
    assert branches.count == 14
    assert shares == [0, 3, 10, 11]
    assert len(branches.missing()) == 3  # the list is always empty
    assert all("subject.py:" in line for line in branches.missing())
    named = Branches(["subject.py:no_such_function"])
    assert (named.count, named.share) == (0, 1.0)


def test_every_parser_that_is_named_is_there() -> None:
    for name in entry.names():
        for parser in run.parsers(name):
            file, _, inner = parser.partition(":")
            assert (ROOT / file).exists(), parser
            if inner and inner != "Verb":
                assert Branches([parser]).count, parser


def test_every_parser_in_python_has_a_planted_bug() -> None:
    planted = {name for name, *_ in run.PLANTED}
    assert planted == {name for name in entry.names() if run.in_python(run.parsers(name))}


def _one_less(records: bytes, base_ns: int, **limits: int) -> list[tuple[int, int, bytes]]:
    return transcode.to_json(records, base_ns, **limits)[:-1]


def _shares_less(records: bytes, base_ns: int, **limits: int) -> list[tuple[int, int, bytes, bytes]]:
    parts = transcode.to_shared_json(records, base_ns, **limits)
    return [
        (first, count, items.replace(b',"shared":0}', b"}"), shared) for first, count, items, shared in parts
    ]


def _one_more(data: bytes, offset: int, count: int) -> int:
    return transcode.end_of(data, offset, count) + 1


@pytest.mark.parametrize(
    ("function", "bug"), [("to_json", _one_less), ("to_shared_json", _shares_less), ("end_of", _one_more)]
)
def test_a_bug_of_the_native_transcoder_is_found(function: str, bug: Callable[..., object]) -> None:
    """It cannot be planted in the source without a build, so it is planted behind it."""
    one, seeds = entry.load("transcode"), entry.corpus("transcode")
    names = ("to_json", "to_shared_json", "end_of")
    native = {name: getattr(transcode, name) for name in names}
    fake = ModuleType("transcode")
    fake.__dict__.update(vars(transcode) | native | {function: bug})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aegis._native.transcode", fake)
        with pytest.raises(AssertionError):
            collections.deque(map(one, entry.mutations(seeds, MUTATIONS, seed=1)), maxlen=0)


@pytest.mark.parametrize("number", range(len(run.PLANTED)))
def test_a_planted_bug_is_in_the_overlay_alone(tmp_path: Path, number: int) -> None:
    name, file, _, instead = run.PLANTED[number]
    assert run.plant(number, tmp_path) == name
    assert instead in (tmp_path / file).read_text()
    assert (tmp_path / file).read_text() != (ROOT / file).read_text()


def test_the_fuzzer_finds_a_planted_bug_and_keeps_the_input(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    number = next(at for at, bug in enumerate(run.PLANTED) if bug[0] == "toml")
    outcome = run.fuzz(run.plant(number, tmp_path), 60, tmp_path)
    assert outcome.crash is not None
    with pytest.raises(AssertionError):
        _with(tmp_path, outcome.crash.read_bytes())
    assert "AssertionError" in outcome.said


def _with(overlay: Path, data: bytes) -> None:
    """The entry of the TOML lines, over the overlay's version of them."""
    made: dict[str, object] = {}
    exec((overlay / "aegis/runtime/toml_lines.py").read_text(), made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aegis.runtime.toml_lines.lines_of", made["lines_of"])
        entry.load("toml")(data)


def test_a_crash_is_told_and_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crash = ROOT / "build/fuzz/crashes/toml-crash-1"
    ends = {"toml": crash, "proc": None}

    def fuzz(name: str, seconds: float) -> run.Outcome:
        assert seconds == 30
        return run.Outcome(name=name, executed=60, per_second=2, crash=ends[name], said="ValueError: no")

    monkeypatch.setattr(run, "fuzz", fuzz)
    assert run.main(["--minutes", "0.5", "proc", "toml"]) == 1
    said = capsys.readouterr().out
    assert "CRASH: build/fuzz/crashes/toml-crash-1\nValueError: no" in said
    monkeypatch.setattr(run, "reached", lambda _names: [])
    assert run.main(["--minutes", "0.5", "proc"]) == 0


def test_an_unknown_entry_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["no_such_entry"])
    assert ended.value.code == 2
    assert "there is no no_such_entry" in capsys.readouterr().err
