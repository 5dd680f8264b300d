"""Names against selectors, by cases; subjects in words."""

from __future__ import annotations

import pytest

from aegis.model.policy_selectors import NameSelector, Subject

CASES = {
    ("example.com", False): ({"example.com", "EXAMPLE.com."}, {"www.example.com", "example.org", ""}),
    ("*.example.com", True): (
        {"a.example.com", "A.Example.Com."},
        {"example.com", "a.b.example.com", "aexample.com"},
    ),
    ("**.example.com", True): (
        {"a.example.com", "a.b.c.example.com"},
        {"example.com", "example.com.evil.org"},
    ),
    ("a*z.example.com", True): (
        {"az.example.com", "abcz.example.com"},
        {"a.example.com", "a.z.example.com", "za.example.com"},
    ),
    ("aa*aa.b", True): ({"aaaa.b", "aaxaa.b"}, {"aaa.b", "aa.b"}),
    ("*", True): ({"a", "a.b.c"}, {"", "."}),
}


@pytest.mark.parametrize("selector", CASES)
def test_what_a_selector_matches(selector: tuple[str, bool]) -> None:
    matching, others = CASES[selector]
    found = NameSelector(*selector)
    assert {name for name in matching | others if found.matches(name)} == matching


def test_a_subject_in_words() -> None:
    assert Subject(unit=("a.service", "b.service"), user=("0",)).text == "unit a.service or b.service, user 0"
