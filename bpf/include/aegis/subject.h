/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Subjects: who sends and receives, as policies name it, classified before it can do anything.
 *
 * A subject is a conjunction of selectors for control group (by unit or path), executable and user. Each
 * dimension gives a mask with a bit for every subject whose selector of it matches or is not given; what all
 * three have in common is the subject mask. Bit 0 is everybody.
 *
 * The masks of control groups and executables come from an automaton over the components of their paths. Its
 * tables are shared by the policy slots: states and affixes of slot N are the Nth part of theirs, so that the
 * old and the new policy are both there while one takes over from the other. */
#ifndef AEGIS_SUBJECT_H
#define AEGIS_SUBJECT_H

enum aegis_subject_limits {
    AEGIS_AUTOMATON_STATES = 2048,  /* of a slot; the first is dead */
    AEGIS_AUTOMATON_AFFIXES = 256,  /* of a slot */
    AEGIS_AUTOMATON_EDGES = 16384,  /* of all slots */
    AEGIS_COMPONENT_BYTES = 124,    /* the longest that is matched exactly */
    AEGIS_AFFIX_BYTES = 64,         /* longest prefix, longest suffix */
    AEGIS_SUBJECT_CGROUPS = 16384,  /* as built: live and dying ones */
    AEGIS_SUBJECT_EXES = 16384,     /* as built: processes of executables that a policy names */
    AEGIS_SUBJECT_NAME_BYTES = 256, /* of a control group's own name */
    AEGIS_SUBJECT_DEPTH = 64,       /* ancestors asked for one that is known */
    AEGIS_SUBJECT_USERS = 8192,     /* of all slots: users whom policies name */
    AEGIS_EXE_STEPS = 256           /* names and mounts of an executable's path */
};

struct aegis_edge {
    __u32 state;
    __u8 text[124]; /* zero-padded; a longer component has no edge */
};
AEGIS_ASSERT_SIZE(struct aegis_edge, 128)

/* Where a component leads that has no edge and matches exactly these affixes. */
struct aegis_branch {
    __u64 matched; /* bits, by place in the state's list */
    __u32 state;
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_branch, 16)

struct aegis_automaton_state {
    __u64 accepts;   /* control groups, executables: mask of subjects */
    __u32 otherwise; /* where a component leads that has no edge and matches no affix */
    __u16 affix;     /* number of the first one, in the slot's part */
    __u16 affix_count;
};
AEGIS_ASSERT_SIZE(struct aegis_automaton_state, 16)

/* The ends of a component. The prefix is left-aligned, the suffix right-aligned; bytes beyond them are 0,
 * also in the masks. */
struct aegis_affix {
    __u64 prefix[8];
    __u64 prefix_mask[8];
    __u64 suffix[8];
    __u64 suffix_mask[8];
    __u32 least; /* bytes of both */
    __u32 pad0;
};
AEGIS_ASSERT_SIZE(struct aegis_affix, 264)

enum aegis_subject_flag {
    AEGIS_SUBJECT_BY_CGROUP = 1,
    AEGIS_SUBJECT_BY_EXE = 2,
    AEGIS_SUBJECT_BY_USER = 4,
    AEGIS_SUBJECT_UNKNOWN_DENIED = 8, /* policy.subject_default: who cannot be classified is denied */
    AEGIS_SUBJECT_LOOPBACK = 16,      /* connect and sendmsg judge destinations on this host as well */
    AEGIS_SUBJECT_RECEIVES = 32       /* there are rules about what subjects receive */
};

/* What is asked in a policy slot. `generation` is written last, and cleared first. */
struct aegis_subject_slot {
    __u32 generation; /* low half, as in the state word; 0: nothing is asked */
    __u32 flags;
    __u64 subjects;  /* bits of all; 0: the policy names no subject */
    __u64 user_base; /* of users without an entry */
    __u64 exe_base;  /* of executables that no pattern matches */
    __u32 cgroup_start;
    __u32 exe_start;
};
AEGIS_ASSERT_SIZE(struct aegis_subject_slot, 40)

struct aegis_subject_control {
    struct aegis_subject_slot slots[4];
    __u64 root;     /* the kernel's directory entry of /, as the agent sees it */
    __u64 exes;     /* slots that name executables, as bits */
    __u64 taken_in; /* 1: the agent has put in every control group there is, so one without an entry found no
                       room */
};
AEGIS_ASSERT_SIZE(struct aegis_subject_control, 184)

/* Of one slot; holds where the generation is the slot's. */
struct aegis_subject_side {
    __u32 generation;
    __u32 state;
    __u64 mask;
};
AEGIS_ASSERT_SIZE(struct aegis_subject_side, 16)

/* By id. Made before anything can enter the control group, deleted when the last of it is gone, later than
 * its directory: its sockets may still send. */
struct aegis_subject_cgroup {
    struct aegis_subject_side sides[4];
    __u64 parent; /* id, 0: of the root of what is watched */
    __u32 name_bytes;
    __u32 pad0;
    __u8 text[256];
};
AEGIS_ASSERT_SIZE(struct aegis_subject_cgroup, 336)

/* Context of the program that classifies the known control groups for a slot. */
struct aegis_subject_fill {
    __u32 slot;
    /* Out */
    __u32 walked;
    __u32 missing; /* not classified before; those with nothing above them that is wait for the next run */
    __u32 filled;
};
AEGIS_ASSERT_SIZE(struct aegis_subject_fill, 16)

/* By process. Holds while the process has not executed anything else since. */
struct aegis_subject_exe {
    __u64 exec;
    struct aegis_subject_side sides[4];
};
AEGIS_ASSERT_SIZE(struct aegis_subject_exe, 72)

struct aegis_subject_user {
    __u32 slot;
    __u32 uid;
};
AEGIS_ASSERT_SIZE(struct aegis_subject_user, 8)

/* What a mask is made of. */
struct aegis_subject_key {
    __u64 cgroup; /* id; where it is not kept, of the nearest known one above */
    __u64 exec;
    __u32 tgid;
    __u32 uid;
};
AEGIS_ASSERT_SIZE(struct aegis_subject_key, 24)

/* Of a socket: who made it, and who connected it last, sent by it last without connecting, or listens. The
 * masks are those of `generation`, else made anew from the keys. */
struct aegis_subject_label {
    struct aegis_subject_key maker;
    struct aegis_subject_key last;
    /* By generation & 1: while one policy takes over from another, each CPU finds what it wrote itself. */
    __u64 maker_mask[2];
    __u64 last_mask[2];
    __u32 generation[2];
};
AEGIS_ASSERT_SIZE(struct aegis_subject_label, 88)

/* Index of the per-CPU counts. */
enum aegis_subject_count {
    AEGIS_SUBJECT_MADE = 0,         /* control groups classified as they were made */
    AEGIS_SUBJECT_RELEASED = 1,     /* and forgotten */
    AEGIS_SUBJECT_CGROUPS_FULL = 2, /* not kept: judged as the nearest known one above */
    AEGIS_SUBJECT_BY_ANCESTOR = 3,  /* times that was done */
    AEGIS_SUBJECT_UNKNOWN = 4,      /* times an owner could not be classified */
    AEGIS_SUBJECT_EXECS = 5,        /* processes of a named executable */
    AEGIS_SUBJECT_EXES_FULL = 6,    /* not kept: judged as of no named executable */
    AEGIS_SUBJECT_FOREIGN = 7, /* the name fits, but in a file system or for a user that is not the host's */
    AEGIS_SUBJECT_LABELS_FULL = 8,    /* sockets without a label */
    AEGIS_SUBJECT_REFUSED = 9,        /* connect or sendmsg refused */
    AEGIS_SUBJECT_AUDITED = 10,       /* would have been */
    AEGIS_SUBJECT_REFUSED_MAKER = 11, /* part of the two: for the socket's maker alone */
    AEGIS_SUBJECT_COUNTS = 16
};

#endif
