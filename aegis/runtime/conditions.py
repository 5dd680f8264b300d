"""The conditions the agent itself raises. A module's own codes are its own."""

from __future__ import annotations

import msgspec


class ConditionKind(msgspec.Struct, frozen=True, kw_only=True):
    """One row: the stable code, when it holds, and what to do about it."""

    code: str
    when: str
    hint: str


CONDITIONS: tuple[ConditionKind, ...] = (
    ConditionKind(
        code="kernel_unavailable",
        when="no BPF program could be loaded: nothing is observed in the kernel and nothing is enforced",
        hint="aegis doctor names what is missing",
    ),
    ConditionKind(
        code="sensor_unavailable",
        when="a sensor's programs could not be loaded or attached: its records are missing",
        hint="aegis doctor names what is missing",
    ),
    ConditionKind(
        code="interface_unattached",
        when="the flow programs could not be attached to an interface: its packets are neither counted nor judged",
        hint="aegis doctor names what is missing; --interface chooses others",
    ),
    ConditionKind(
        code="no_interface",
        when="no interface is watched: packets are neither counted nor judged",
        hint="--interface NAME, or kernel.interfaces in agent.toml",
    ),
    ConditionKind(
        code="interfaces_unreadable",
        when="the host's interfaces cannot be read: the hooks in place stay, new interfaces are not watched",
        hint="nothing to do; it is tried again every second",
    ),
    ConditionKind(
        code="hook_lost",
        when="somebody took programs of ours off their hook: until they were put back nothing was counted or judged there",
        hint="find out who did it: another agent, tc or bpftool",
    ),
    ConditionKind(
        code="hook_preceded",
        when="a program of somebody else runs before ours at an interface: what it lets pass or drops is not judged by policy",
        hint="aegis doctor lists the programs; attach them after ours",
    ),
    ConditionKind(
        code="look_failed",
        when="hooks, losses or resources could not be looked at: what the kernel enforces goes on",
        hint="nothing to do; it is tried again every second",
    ),
    ConditionKind(
        code="flows_unavailable",
        when="the flow table cannot be read: flows are counted and judged in the kernel, and cannot be shown",
        hint="aegis doctor names what is missing",
    ),
    ConditionKind(
        code="owner_unavailable",
        when="socket owners are not recorded: flows of new sockets have no process",
        hint="aegis doctor names what is missing",
    ),
    ConditionKind(
        code="subjects_unavailable",
        when="units, executables and users cannot be told apart in the kernel: policies about them are refused",
        hint="aegis doctor names what is missing",
    ),
    ConditionKind(
        code="names_unavailable",
        when="names cannot be learnt from DNS answers: policies about them are refused, or match nothing",
        hint="aegis doctor names what is missing; policy.resolvers names resolvers",
    ),
    ConditionKind(
        code="pins_unavailable",
        when="the pin directory cannot be used: enforcement ends with the agent",
        hint="mount bpffs at /sys/fs/bpf, or give --pin-dir inside one",
    ),
    ConditionKind(
        code="pins_replaced",
        when="tables pinned by an agent before could not be adopted and were made anew: flows before are forgotten",
        hint="nothing to do; it ends with the next start",
    ),
    ConditionKind(
        code="policy_undone",
        when="a policy on trial was not confirmed in time: the policies before it are in force again",
        hint="aegis policy history shows them",
    ),
    ConditionKind(
        code="management_incomplete",
        when="the kernel could not be told all that no policy may cut: a policy may cut what is left out",
        hint="aegis config show policy",
    ),
    ConditionKind(
        code="policy_not_loaded",
        when="the committed policy could not be put into the kernel: what the kernel enforces now goes on",
        hint="aegis policy list shows what is in force; apply the policies again",
    ),
    ConditionKind(
        code="socket_group_missing",
        when="there is no group aegis: the control socket is root's alone",
        hint="groupadd --system aegis, then restart the agent",
    ),
    ConditionKind(
        code="socket_unavailable",
        when="the control socket could not be made: the tool cannot reach the agent",
        hint="check the run directory and --run-dir",
    ),
    ConditionKind(
        code="config_refused",
        when="the configuration on disk has problems: the one read before stays in force",
        hint="aegis config check names each problem",
    ),
    ConditionKind(
        code="restart_needed",
        when="a changed option is taken at the next start only",
        hint="restart the agent",
    ),
    ConditionKind(
        code="records_lost",
        when="records of the kernel did not arrive; counters has the figures by kind and reason",
        hint="raise kernel.ring_bytes",
    ),
    ConditionKind(
        code="records_unavailable",
        when="the ring of records cannot be opened: there are no process, socket or verdict events; packets are judged",
        hint="aegis doctor says what is missing; start the agent again once it is there",
    ),
    ConditionKind(
        code="module_spun",
        when="a module's code kept the agent's loop from turning: the agent started again without it; enforcement went on",
        hint="find out what the module was doing where the text says; aegis modules start NAME starts it at once",
    ),
    ConditionKind(
        code="storage_degraded",
        when="blocks for the gateway cannot be written to disk: they wait in memory, and what finds no room there is lost",
        hint="nothing to do but free or repair the file system of the state directory; it is tried again by itself",
    ),
    ConditionKind(
        code="outbox_quarantined",
        when="the file of stored blocks was damaged: it was set aside, and what could be read of it is in a new one",
        hint="check the disk; the file set aside is outbox.db.corrupt-N in the state directory",
    ),
)
