"""Builds `aegis._native._libbpf`: the part of libbpf (1.1 or later) the kernel room uses, through cffi's API mode.

Option structs are partial (`...`): the compiler supplies their layout, so one source serves libbpf 1.1 and 1.5.
"""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

from cffi import FFI


def pkg_config(option: str, prefix: str) -> list[str]:
    """What pkg-config prints for libbpf under `option`, without `prefix`; empty where the compiler knows by itself."""
    words = subprocess.run(  # noqa: S603 - no input of anybody
        ["pkg-config", option, "libbpf"],  # noqa: S607 - found on PATH, as every build tool
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return [word.removeprefix(prefix) for word in words]


CDEF = """
struct bpf_object;
struct bpf_program;
struct bpf_map;
struct btf;

/* opening and loading */
struct bpf_object_open_opts {
  size_t sz;
  const char *object_name;
  const char *btf_custom_path;
  ...;
};
struct bpf_object *bpf_object__open_mem(const void *buffer, size_t size, const struct bpf_object_open_opts *opts);
int bpf_object__load(struct bpf_object *object);
void bpf_object__close(struct bpf_object *object);
struct bpf_program *bpf_object__next_program(const struct bpf_object *object, struct bpf_program *previous);
struct bpf_map *bpf_object__next_map(const struct bpf_object *object, const struct bpf_map *previous);

const char *bpf_program__name(const struct bpf_program *program);
const char *bpf_program__section_name(const struct bpf_program *program);
int bpf_program__set_autoload(struct bpf_program *program, bool autoload);
bool bpf_program__autoload(const struct bpf_program *program);
int bpf_program__fd(const struct bpf_program *program);
int bpf_program__type(const struct bpf_program *program);
int bpf_program__expected_attach_type(const struct bpf_program *program);
int bpf_program__set_log_level(struct bpf_program *program, unsigned int level);
int bpf_program__set_log_buf(struct bpf_program *program, char *buffer, size_t size);

const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__type(const struct bpf_map *map);
unsigned int bpf_map__key_size(const struct bpf_map *map);
unsigned int bpf_map__value_size(const struct bpf_map *map);
unsigned int bpf_map__max_entries(const struct bpf_map *map);
unsigned int bpf_map__map_flags(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, unsigned int max_entries);
struct bpf_map *bpf_map__inner_map(struct bpf_map *map);
int bpf_map__set_value_size(struct bpf_map *map, unsigned int size);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);

/* maps by descriptor */
struct bpf_map_create_opts {
  size_t sz;
  unsigned int inner_map_fd, map_flags;
  ...;
};
struct bpf_map_batch_opts {
  size_t sz;
  ...;
};
int bpf_map_create(int type, const char *name, unsigned int key_size, unsigned int value_size,
                   unsigned int max_entries, const struct bpf_map_create_opts *opts);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, unsigned long long flags);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, unsigned int *count,
                         const struct bpf_map_batch_opts *opts);
int libbpf_num_possible_cpus(void);

/* pins and descriptions */
int bpf_obj_pin(int fd, const char *path);
int bpf_obj_get(const char *path);
int bpf_obj_get_info_by_fd(int fd, void *info, unsigned int *size);
int bpf_prog_get_fd_by_id(unsigned int id);
int bpf_map_get_fd_by_id(unsigned int id);
struct bpf_map_info {
  unsigned int type, id, key_size, value_size, max_entries, map_flags;
  char name[16];
  ...;
};
struct bpf_prog_info {
  unsigned int type, id;
  unsigned char tag[8];
  unsigned int jited_prog_len, xlated_prog_len;
  unsigned long long load_time;
  char name[16];
  unsigned long long run_time_ns, run_cnt, recursion_misses;
  unsigned int verified_insns;
  ...;
};
/* bpf_link_info as kernels from 6.6 fill it; Debian 12's header ends before the tcx member. */
struct aegis_link_info {
  unsigned int type, id, prog_id;
  unsigned int ifindex;           /* tcx: 0 when the interface is gone */
  unsigned int tcx_attach_type;
  unsigned long long cgroup_id;   /* cgroup */
  unsigned int cgroup_attach_type;
};
int aegis_link_info(int fd, struct aegis_link_info *out);

/* running */
struct bpf_test_run_opts {
  size_t sz;
  const void *data_in;
  void *data_out;
  unsigned int data_size_in, data_size_out;
  const void *ctx_in;
  void *ctx_out;
  unsigned int ctx_size_in, ctx_size_out;
  unsigned int retval;
  int repeat;
  unsigned int duration, flags, cpu, batch_size;
  ...;
};
int bpf_prog_test_run_opts(int fd, struct bpf_test_run_opts *opts);
int bpf_enable_stats(int type);

/* links */
int aegis_link_create(int program_fd, int target, int attach_type);
int aegis_link_create_first(int program_fd, int target, int attach_type);
int aegis_link_create_iter(int program_fd, int map_fd);
int bpf_link_update(int link_fd, int program_fd, const void *opts);
int bpf_link_detach(int link_fd);
int bpf_iter_create(int link_fd);
int bpf_raw_tracepoint_open(const char *name, int program_fd);
int aegis_prog_query(int target, int attach_type, unsigned int flags, unsigned int *ids, unsigned int *count);

/* clsact */
struct bpf_tc_hook {
  size_t sz;
  int ifindex;
  int attach_point;
  unsigned int parent;
  ...;
};
struct bpf_tc_opts {
  size_t sz;
  int prog_fd;
  unsigned int flags, prog_id, handle, priority;
  ...;
};
int bpf_tc_hook_create(struct bpf_tc_hook *hook);
int bpf_tc_hook_destroy(struct bpf_tc_hook *hook);
int bpf_tc_attach(const struct bpf_tc_hook *hook, struct bpf_tc_opts *opts);
int bpf_tc_detach(const struct bpf_tc_hook *hook, const struct bpf_tc_opts *opts);
int bpf_tc_query(const struct bpf_tc_hook *hook, struct bpf_tc_opts *opts);

/* type information */
struct btf *btf__parse(const char *path, void *extension);
void btf__free(struct btf *btf);
const char *btf__name_by_offset(const struct btf *btf, unsigned int offset);
int btf__find_by_name_kind(const struct btf *btf, const char *name, unsigned int kind);
long long btf__resolve_size(const struct btf *btf, unsigned int type);
struct aegis_btf_member { unsigned int name_offset, type, bit_offset; };
struct aegis_btf_enumerator { unsigned int name_offset; int value; };
int aegis_btf_kind(const struct btf *btf, unsigned int id, unsigned int *name_offset, unsigned int *count);
int aegis_btf_member(const struct btf *btf, unsigned int id, unsigned int index, struct aegis_btf_member *out);
int aegis_btf_enumerator(const struct btf *btf, unsigned int id, unsigned int index,
                         struct aegis_btf_enumerator *out);

/* programs a probe loads, as raw instructions */
int aegis_prog_load(int type, int expected_attach_type, const char *name, const unsigned long long *instructions,
                    size_t count, unsigned int attach_btf_id, char *log, size_t log_size);
int libbpf_probe_bpf_map_type(int type, const void *options);
const char *libbpf_version_string(void);

/* what libbpf says */
void aegis_capture_messages(void);
extern "Python" void aegis_libbpf_message(int level, const char *text, size_t size);

enum { BPF_MAP_TYPE_HASH = ..., BPF_MAP_TYPE_ARRAY = ..., BPF_MAP_TYPE_PERCPU_HASH = ...,
       BPF_MAP_TYPE_PERCPU_ARRAY = ..., BPF_MAP_TYPE_ARRAY_OF_MAPS = ..., BPF_MAP_TYPE_RINGBUF = ...,
       BPF_MAP_TYPE_SK_STORAGE = ..., BPF_MAP_TYPE_LRU_PERCPU_HASH = ..., BPF_MAP_TYPE_HASH_OF_MAPS = ... };
enum { BPF_PROG_TYPE_SCHED_CLS = ..., BPF_PROG_TYPE_CGROUP_SOCK = ...,
       BPF_PROG_TYPE_RAW_TRACEPOINT = ..., BPF_PROG_TYPE_TRACING = ..., BPF_PROG_TYPE_SYSCALL = ... };
enum { BPF_CGROUP_INET_SOCK_CREATE = ...,
       BPF_TRACE_RAW_TP = ..., BPF_TRACE_ITER = ... };
enum { BPF_ANY = ..., BPF_NOEXIST = ..., BPF_EXIST = ... };
enum { BPF_F_NO_PREALLOC = ..., BPF_F_MMAPABLE = ..., BPF_F_CLONE = ..., BPF_F_RDONLY_PROG = ... };
enum { BPF_TC_INGRESS = ..., BPF_TC_EGRESS = ..., BPF_TC_F_REPLACE = ..., BPF_STATS_RUN_TIME = ... };
enum { BTF_KIND_STRUCT = ..., BTF_KIND_ENUM = ..., BTF_KIND_TYPEDEF = ...,
       BTF_KIND_FUNC = ... };
enum { BPF_TCX_INGRESS_ = ..., BPF_TCX_EGRESS_ = ... };
"""

SOURCE = r"""
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "aegis/abi.h"

/* In linux/bpf.h from 6.6; the numbers are the kernel's and do not change. */
enum { BPF_TCX_INGRESS_ = 46, BPF_TCX_EGRESS_ = 47, BPF_F_BEFORE_ = 1 << 3 };

struct aegis_link_info {
  unsigned int type, id, prog_id, ifindex, tcx_attach_type;
  unsigned long long cgroup_id;
  unsigned int cgroup_attach_type;
};
struct aegis_btf_member { unsigned int name_offset, type, bit_offset; };
struct aegis_btf_enumerator { unsigned int name_offset; int value; };

static int aegis_link_info(int fd, struct aegis_link_info *out) {
  struct {
    __u32 type, id, prog_id, pad;
    union {
      struct { __u32 ifindex, attach_type; } tcx;
      struct { __u64 cgroup_id; __u32 attach_type; } cgroup;
      __u64 room[8];
    };
  } info;
  __u32 size = sizeof(info);
  int rc;
  memset(&info, 0, sizeof(info));
  rc = bpf_obj_get_info_by_fd(fd, &info, &size);
  if (rc)
    return rc;
  out->type = info.type;
  out->id = info.id;
  out->prog_id = info.prog_id;
  out->ifindex = info.tcx.ifindex;
  out->tcx_attach_type = info.tcx.attach_type;
  out->cgroup_id = info.cgroup.cgroup_id;
  out->cgroup_attach_type = info.cgroup.attach_type;
  return 0;
}

static int aegis_link_create(int program_fd, int target, int attach_type) {
  return bpf_link_create(program_fd, target, (enum bpf_attach_type)attach_type, NULL);
}

/* Before every other program of a hook that keeps them in order: BPF_F_BEFORE of no program is the head. */
static int aegis_link_create_first(int program_fd, int target, int attach_type) {
  LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = BPF_F_BEFORE_);
  return bpf_link_create(program_fd, target, (enum bpf_attach_type)attach_type, &opts);
}

/* map_fd < 0: an iterator that walks no map. */
static int aegis_link_create_iter(int program_fd, int map_fd) {
  union bpf_iter_link_info target;
  LIBBPF_OPTS(bpf_link_create_opts, opts);
  memset(&target, 0, sizeof(target));
  if (map_fd >= 0) {
    target.map.map_fd = (__u32)map_fd;
    opts.iter_info = &target;
    opts.iter_info_len = sizeof(target);
  }
  return bpf_link_create(program_fd, 0, BPF_TRACE_ITER, &opts);
}

static int aegis_prog_query(int target, int attach_type, unsigned int flags, unsigned int *ids,
                            unsigned int *count) {
  return bpf_prog_query(target, (enum bpf_attach_type)attach_type, flags, NULL, ids, count);
}

static int aegis_btf_kind(const struct btf *btf, unsigned int id, unsigned int *name_offset,
                          unsigned int *count) {
  const struct btf_type *type = btf__type_by_id(btf, id);
  if (!type)
    return -1;
  *name_offset = type->name_off;
  *count = btf_vlen(type);
  return btf_kind(type);
}

static int aegis_btf_member(const struct btf *btf, unsigned int id, unsigned int index,
                            struct aegis_btf_member *out) {
  const struct btf_type *type = btf__type_by_id(btf, id);
  if (!type || btf_kind(type) != BTF_KIND_STRUCT || index >= btf_vlen(type))
    return -1;
  out->name_offset = btf_members(type)[index].name_off;
  out->type = btf_members(type)[index].type;
  out->bit_offset = btf_member_bit_offset(type, index);
  return 0;
}

static int aegis_btf_enumerator(const struct btf *btf, unsigned int id, unsigned int index,
                                struct aegis_btf_enumerator *out) {
  const struct btf_type *type = btf__type_by_id(btf, id);
  if (!type || btf_kind(type) != BTF_KIND_ENUM || index >= btf_vlen(type))
    return -1;
  out->name_offset = btf_enum(type)[index].name_off;
  out->value = btf_enum(type)[index].val;
  return 0;
}

static int aegis_prog_load(int type, int expected_attach_type, const char *name,
                           const unsigned long long *instructions, size_t count, unsigned int attach_btf_id,
                           char *log, size_t log_size) {
  LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = (enum bpf_attach_type)expected_attach_type,
              .attach_btf_id = attach_btf_id, .attempts = 1);
  if (log_size) {
    opts.log_buf = log;
    opts.log_size = log_size;
    opts.log_level = 1;
  }
  return bpf_prog_load((enum bpf_prog_type)type, name, "Dual BSD/GPL", (const struct bpf_insn *)instructions,
                       count, &opts);
}

static void aegis_libbpf_message(int level, const char *text, size_t size);

/* Warnings only: libbpf's notes cost time on the start-up path and say nothing an operator can act on. */
static int aegis_print(enum libbpf_print_level level, const char *format, va_list arguments) {
  va_list again;
  char *text;
  int size;
  if (level != LIBBPF_WARN)
    return 0;
  va_copy(again, arguments);
  size = vsnprintf(NULL, 0, format, again);
  va_end(again);
  if (size <= 0 || !(text = malloc((size_t)size + 1)))
    return 0;
  vsnprintf(text, (size_t)size + 1, format, arguments);
  aegis_libbpf_message((int)level, text, (size_t)size);
  free(text);
  return size;
}

static void aegis_capture_messages(void) { libbpf_set_print(aegis_print); }
"""

abi = runpy.run_path(str(Path(__file__).with_name("abi_build.py")))

ffibuilder = FFI()
ffibuilder.include(abi["ffibuilder"])
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "aegis._native._libbpf",
    SOURCE,
    libraries=pkg_config("--libs-only-l", "-l") or ["bpf"],
    library_dirs=pkg_config("--libs-only-L", "-L"),
    include_dirs=[str(abi["INCLUDE"]), *pkg_config("--cflags-only-I", "-I")],
)
