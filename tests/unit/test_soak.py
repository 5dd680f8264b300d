"""The registry behind `./dev soak`."""

from __future__ import annotations

import pytest

from benchmarks.check import ROOT
from tests import soak


@pytest.mark.parametrize("name", soak.SOAKS)
def test_what_a_soak_selects_has_a_scale(name: str) -> None:
    """A selection that does not read the scale would run the same in CI and be no soak."""
    paths = [ROOT / argument.partition("::")[0] for argument in soak.SOAKS[name].selection]
    assert all("scaled(" in path.read_text() for path in paths)


def test_an_unknown_name_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        soak.main(["no_such_soak"])
    assert ended.value.code == 2
    assert "there is no no_such_soak" in capsys.readouterr().err
