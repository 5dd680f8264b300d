from __future__ import annotations

import errno
import subprocess
import sys
import threading

import pytest

from aegis.errors import AttachFailed, CapabilityMissing, KernelError
from aegis.kernel.library import MESSAGE_TAIL, MESSAGES_KEPT, checked, failure, messages

WITHOUT_LIBRARY = """
import sys
sys.modules["aegis._native._libbpf"] = None  # as where libbpf.so.1 is missing: the import fails
sys.modules["aegis._native.ringbuf"] = None

import aegis.kernel.abi, aegis.kernel.datapath, aegis.kernel.features, aegis.kernel.filters, aegis.kernel.links
import aegis.kernel.maps, aegis.kernel.object, aegis.kernel.pins, aegis.kernel.tc, aegis.kernel.verifier
import aegis.kernel.sensors, aegis.kernel.hub, aegis.kernel.rings
from aegis.errors import FeatureUnsupported
from aegis.kernel.features import probe_all
from aegis.kernel.object import BpfObject

try:
    BpfObject.open("core")
except FeatureUnsupported as error:
    print(error.code, "|", error.hint)
found = {each.name: each for each in probe_all()}
for name in ("libbpf", "bpf", "tcx", "tracing"):
    print(name, found[name].state, found[name].reason.startswith("load libbpf"))
print("cgroup2", found["cgroup2"].state != "missing" or "cgroup2" in found["cgroup2"].reason)
"""


def test_without_libbpf_importing_works_and_using_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "feature_unsupported | install libbpf 1.1 or later (Debian: libbpf1)",
        "libbpf missing True",
        "bpf missing True",
        "tcx missing True",
        "tracing missing True",
        "cgroup2 True",
    ]


def test_a_good_result_passes() -> None:
    assert checked(0, "try", "it") == 0
    assert checked(7, "try", "it") == 7


def test_a_bad_one_becomes_its_kind() -> None:
    with pytest.raises(AttachFailed, match="attach x: No such device") as raised:
        checked(-errno.ENODEV, "attach", "x", AttachFailed)
    assert (raised.value.errno, raised.value.operation, raised.value.subject) == (errno.ENODEV, "attach", "x")


def test_a_forbidden_one_names_the_capabilities() -> None:
    error = failure(-errno.EPERM, "load", "x", AttachFailed)
    assert isinstance(error, CapabilityMissing)
    assert "CAP_BPF" in str(error.hint)


def test_what_libbpf_said_goes_into_the_error_once() -> None:
    messages.kept.append("libbpf: no such program\n")
    assert "no such program" in str(failure(-errno.EINVAL, "load", "x"))
    assert "no such program" not in str(failure(-errno.EINVAL, "load", "x"))


def test_messages_belong_to_their_thread() -> None:
    messages.take()
    thread = threading.Thread(target=lambda: messages.kept.append("said elsewhere"))
    thread.start()
    thread.join()
    assert messages.take() == ""


def test_messages_are_bounded() -> None:
    for number in range(MESSAGES_KEPT + 7):
        messages.kept.append(str(number))
    assert len(messages.kept) == MESSAGES_KEPT
    messages.take()
    assert MESSAGE_TAIL > 0
    assert isinstance(failure(-errno.EINVAL, "x", "y"), KernelError)
