"""What is missing, and why."""

from __future__ import annotations

from typing import Any

from aegis.agent.kernel_features import KernelFeatures
from aegis.kernel.features import Feature
from aegis.runtime import log
from aegis.runtime.settings import Settings


def test_a_missing_feature_is_put_down_to_a_missing_capability() -> None:
    def feature(name: str, state: Any) -> Feature:
        return Feature(name=name, state=state, source="", reason="why", effect="", hint="")

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
    assert known.missing(("bpf", "tracing")) == "missing_capability(CAP_PERFMON): tracing: why"
    assert known.missing(("btf",)) == "feature_unsupported(btf): why"
    assert known.lacking() == "start the agent with CAP_PERFMON"
    known.__dict__["found"] = (feature("CAP_BPF", "ok"),)
    assert known.lacking() == ""
