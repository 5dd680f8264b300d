/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* No programs: instantiates each shared struct and enum once, so that their layout is in BTF. */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
#include "aegis/abi.h"

#define AEGIS_KEEP(tag)      struct tag abi_##tag
#define AEGIS_KEEP_ENUM(tag) enum tag abi_##tag

AEGIS_KEEP(aegis_header);
AEGIS_KEEP(aegis_process);
AEGIS_KEEP(aegis_exec);
AEGIS_KEEP(aegis_exit);
AEGIS_KEEP(aegis_fork);
AEGIS_KEEP(aegis_socket);
AEGIS_KEEP(aegis_cgroup);
AEGIS_KEEP(aegis_synthetic);
AEGIS_KEEP(aegis_flow_key);
AEGIS_KEEP(aegis_flow_value);
AEGIS_KEEP(aegis_flow_row);
AEGIS_KEEP(aegis_owner);
AEGIS_KEEP(aegis_sweep);
AEGIS_KEEP(aegis_image_header);
AEGIS_KEEP(aegis_image_v4);
AEGIS_KEEP(aegis_image_v6);
AEGIS_KEEP(aegis_image_class);
AEGIS_KEEP(aegis_image_cell);
AEGIS_KEEP(aegis_rule_hits);
AEGIS_KEEP(aegis_verdict_limit_key);
AEGIS_KEEP(aegis_verdict_limit);
AEGIS_KEEP(aegis_verdict_record);
AEGIS_KEEP(aegis_constants);
AEGIS_KEEP(aegis_control);
AEGIS_KEEP(aegis_reader);
AEGIS_KEEP(aegis_record_counters);
AEGIS_KEEP(aegis_packet_counter);
AEGIS_KEEP_ENUM(aegis_abi);
AEGIS_KEEP_ENUM(aegis_limits);
AEGIS_KEEP_ENUM(aegis_direction);
AEGIS_KEEP_ENUM(aegis_kind);
AEGIS_KEEP_ENUM(aegis_exec_flags);
AEGIS_KEEP_ENUM(aegis_owner_label);
AEGIS_KEEP_ENUM(aegis_flow_state);
AEGIS_KEEP_ENUM(aegis_flow_mark);
AEGIS_KEEP_ENUM(aegis_sweep_kind);
AEGIS_KEEP_ENUM(aegis_sweep_limits);
AEGIS_KEEP_ENUM(aegis_idle_class);
AEGIS_KEEP_ENUM(aegis_verdict);
AEGIS_KEEP_ENUM(aegis_image);
AEGIS_KEEP_ENUM(aegis_verdict_limits);
AEGIS_KEEP_ENUM(aegis_packet_total);
AEGIS_KEEP_ENUM(aegis_table_loss);
