/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The object that stays when the agent goes: flows, their verdicts, the owners of sockets. One translation
 * unit. */
#define AEGIS_WITH_FLOWS
#include "kern/prelude.bpf.h"
#include "kern/maps.bpf.h"
#include "kern/emit.bpf.h"
#include "kern/verdict.bpf.h"
#include "kern/names.bpf.h"
#include "kern/names_automaton.bpf.h"
#include "kern/packet.bpf.h"
#include "kern/management.bpf.h"
#include "kern/automaton.bpf.h"
#include "kern/subject.bpf.h"
#include "kern/parse.bpf.h"
#include "owner.bpf.c"
#include "sender.bpf.c"
#include "subject.bpf.c"
#include "names.bpf.c"
#include "flow.bpf.c"
#include "sweep.bpf.c"
#include "connect.bpf.c"

char LICENSE[] SEC("license")
= "Dual BSD/GPL";
