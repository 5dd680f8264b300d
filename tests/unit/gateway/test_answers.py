from __future__ import annotations

import pytest

from aegis.gateway import answers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0015, "1.5ms"),
        (0.25, "250ms"),
        (1.0, "1s"),
        (59.5, "59.5s"),
        (61.25, "1m1.25s"),
        (3600.0, "1h0m0s"),
        (90061.0, "25h1m1s"),
    ],
)
def test_a_duration_reads_as_gos(seconds: float, text: str) -> None:
    assert answers.duration(seconds) == text


def test_busy_says_whole_seconds() -> None:
    for seconds, said in ((0.01, "1"), (1.2, "2"), (7.0, "7")):
        response = answers.busy("later", seconds)
        assert (response.status_code, response.headers["Retry-After"]) == (503, said)


def test_text_ends_in_a_newline_and_knows_its_length() -> None:
    response = answers.text(404, "404 page not found")
    assert response.body == b"404 page not found\n"
    assert response.headers["Content-Length"] == str(len(response.body))
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
