"""What this kernel offers the agent, tried out, and to what its absence can be put down."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from aegis.errors import CapabilityMissing, KernelError
from aegis.kernel import type_information
from aegis.kernel.datapath import Datapath
from aegis.runtime.module import Log
from aegis.runtime.settings import Settings

if TYPE_CHECKING:
    from aegis.kernel.features import Feature

# What a feature asks of the process (capabilities(7)), so that its absence can be put down to it.
CAPABILITIES_OF = {
    "bpf": ("CAP_BPF",),
    "ringbuf": ("CAP_BPF",),
    "sk_storage": ("CAP_BPF",),
    "tracing": ("CAP_BPF", "CAP_PERFMON"),
    "iterators": ("CAP_BPF", "CAP_PERFMON"),
    "senders": ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"),
    "tcx": ("CAP_BPF", "CAP_NET_ADMIN"),
    "clsact": ("CAP_BPF", "CAP_NET_ADMIN"),
    "cgroup": ("CAP_BPF", "CAP_NET_ADMIN"),
}


class KernelFeatures:
    """Probes when it is asked; made without I/O. `datapath` gives the one that is installed, or None."""

    def __init__(self, settings: Settings, log: Log, datapath: Callable[[], Datapath | None]) -> None:
        self._settings = settings
        self._log = log
        self._datapath = datapath

    @property
    def named_btf(self) -> Path | None:
        """The file of type information that is configured, whatever is in it."""
        return None if self._settings["btf"] is None else Path(self._settings.text("btf"))

    @cached_property
    def btf_problem(self) -> str | None:
        """Why the configured type information is not used; None where it is, or there is none."""
        named = self.named_btf
        return None if named is None else type_information.problem(named)

    @property
    def btf(self) -> Path | None:
        """The type information to fit programs by; None: the kernel's own."""
        return None if self.btf_problem is not None else self.named_btf

    @cached_property
    def found(self) -> tuple[Feature, ...]:
        """Every feature, probed when first asked for (20 ms)."""
        return self.probe()

    def probe(self) -> tuple[Feature, ...]:
        """Every feature, probed now."""
        from aegis.kernel.features import probe_all

        root = self._settings["cgroup_root"]
        return (
            probe_all(
                btf=self.named_btf,
                pin_dir=Path(self._settings.text("pin_dir")),
                cgroup_root=Path(root) if isinstance(root, str) else None,
            )
            + self._others()
        )

    def _others(self) -> tuple[Feature, ...]:
        """The programs of others on our hooks, as one more line; none without hooks of ours."""
        from aegis.kernel.features import describe_others

        datapath = self._datapath()
        if datapath is None:
            return ()
        try:
            return (describe_others(datapath.others()),)
        except KernelError as error:
            self._log.warning("programs of others cannot be listed", error=str(error))
            return ()

    def missing(self, names: tuple[str, ...]) -> str | None:
        """Why the first of these features that is not there is missing, as a typed reason; None when all are."""
        if not names:
            return None
        found = {feature.name: feature for feature in self.found if feature.state == "missing"}
        for name in names:
            if name not in found:
                continue
            lacking = [one for one in CAPABILITIES_OF.get(name, ()) if one in found]
            one = found[name]
            code = f"missing_capability({', '.join(lacking)})" if lacking else f"feature_unsupported({name})"
            effect = f"; effect: {one.effect}" if one.effect else ""
            hint = f"; hint: {self.lacking() if lacking else one.hint}" if lacking or one.hint else ""
            return f"{code}: {name}: {one.reason}{effect}{hint}"
        return None

    def capabilities(self) -> tuple[str, ...]:
        """Those that are missing."""
        names = {name for names in CAPABILITIES_OF.values() for name in names}
        return tuple(one.name for one in self.found if one.name in names and one.state == "missing")

    def lacking(self) -> str:
        """What to do about capabilities that are missing; empty where none is."""
        gone = self.capabilities()
        return f"start the agent with {', '.join(gone)}" if gone else ""

    def describe(self, error: KernelError) -> str:
        """An error with its code; beginning with the capabilities that are missing, where it can come from that."""
        refused = isinstance(error, CapabilityMissing)
        # Without CAP_PERFMON the verifier refuses what it takes else, and says EACCES.
        gone = ", ".join(self.capabilities()) if refused or error.errno == errno.EACCES else ""
        if not gone:
            return f"{error.code}: {error}"
        return f"missing_capability({gone}): {'' if refused else f'{error.code}: '}{error}"
