"""What is missing, and why."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from aegis.agent.kernel_features import KernelFeatures
from aegis.errors import CapabilityMissing, LoadRejected
from aegis.kernel.features import Feature
from aegis.runtime import log
from aegis.runtime.settings import Settings


def test_a_missing_feature_is_put_down_to_a_missing_capability() -> None:
    def feature(name: str, state: Any) -> Feature:
        return Feature(name=name, state=state, source="", reason="why", effect="lost", hint="do")

    known = KernelFeatures(Settings("kernel", {}), log.logger(), lambda: None)
    known.__dict__["found"] = (
        feature("tracing", "missing"),
        feature("CAP_BPF", "ok"),
        feature("CAP_PERFMON", "missing"),
        feature("btf", "missing"),
        feature("bpf", "ok"),
    )
    assert known.missing(()) is None
    assert known.missing(("bpf",)) is None
    assert known.missing(("bpf", "tracing")) == (
        "missing_capability(CAP_PERFMON): tracing: why; effect: lost; hint: start the agent with CAP_PERFMON"
    )
    assert known.missing(("btf",)) == "feature_unsupported(btf): btf: why; effect: lost; hint: do"
    assert known.lacking() == "start the agent with CAP_PERFMON"
    refused = LoadRejected("load", "core", errno.EACCES, detail="R8 pointer comparison prohibited")
    assert known.describe(refused) == f"missing_capability(CAP_PERFMON): load_rejected: {refused}"
    short = LoadRejected("load", "core", errno.EINVAL)
    assert known.describe(short) == f"load_rejected: {short}"
    may_not = CapabilityMissing("load", "core", errno.EPERM)
    assert known.describe(may_not) == f"missing_capability(CAP_PERFMON): {may_not}"
    known.__dict__["found"] = (feature("CAP_BPF", "ok"),)
    assert known.describe(may_not) == f"missing_capability: {may_not}"
    assert known.lacking() == ""


def test_a_file_that_is_no_type_information_is_not_used(tmp_path: Path) -> None:
    def known(btf: Path | None) -> KernelFeatures:
        return KernelFeatures(
            Settings("kernel", {"btf": None if btf is None else str(btf)}), log.logger(), lambda: None
        )

    assert (known(None).btf, known(None).btf_problem) == (None, None)
    absent = known(tmp_path / "absent")
    assert absent.btf is None
    assert absent.btf_problem == f"{tmp_path}/absent: No such file or directory"
    assert absent.named_btf == tmp_path / "absent"
