"""Foreign declarations: the shared header. The compiler supplies sizes and offsets; only names stand here."""


cdef extern from "aegis/abi.h" nogil:
    ctypedef unsigned char u8 "__u8"
    ctypedef unsigned short u16 "__u16"
    ctypedef unsigned int u32 "__u32"
    ctypedef unsigned long long u64 "__u64"

    enum:
        AEGIS_COMM_BYTES
        AEGIS_ANCESTORS

    enum:
        AEGIS_KIND_NONE
        AEGIS_KIND_EXEC
        AEGIS_KIND_EXIT
        AEGIS_KIND_FORK
        AEGIS_KIND_CONNECT
        AEGIS_KIND_ACCEPT
        AEGIS_KIND_LISTEN
        AEGIS_KIND_VERDICT
        AEGIS_KIND_CGROUP
        AEGIS_KIND_SYNTHETIC
        AEGIS_KINDS

    enum:
        AEGIS_PATH_TRUNCATED
        AEGIS_CWD_TRUNCATED
        AEGIS_EXE_DELETED

    enum:
        AEGIS_EGRESS
        AEGIS_INGRESS

    enum:
        AEGIS_FLOW_CLOSED

    enum:
        AEGIS_JUDGED_RULE_MASK
        AEGIS_JUDGED_VERDICT_SHIFT
        AEGIS_JUDGED_INITIATOR_SHIFT

    struct aegis_header:
        u64 ktime_ns
        u32 size
        u16 kind
        u16 cpu

    struct aegis_process:
        u64 start_ns
        u32 pid
        u32 uid

    struct aegis_exec:
        aegis_header header
        aegis_process process
        u64 cgroup_id
        u64 inode
        u32 device
        u32 gid
        u32 parent_pid
        u32 args_total
        u16 args_bytes
        u16 path_bytes
        u16 cwd_bytes
        u8 ancestor_count
        u8 flags
        u8 comm[16]
        aegis_process ancestors[8]

    struct aegis_exit:
        aegis_header header
        aegis_process process
        u64 cgroup_id
        u32 parent_pid
        u32 code
        u32 signal
        u8 comm[16]

    struct aegis_fork:
        aegis_header header
        aegis_process process
        aegis_process parent
        u64 cgroup_id
        u8 comm[16]

    struct aegis_socket:
        aegis_header header
        aegis_process process
        u64 cgroup_id
        u64 cookie
        u8 source[16]
        u8 destination[16]
        u16 source_port
        u16 destination_port
        u8 protocol
        u8 owner_label
        u16 error
        u8 comm[16]

    struct aegis_cgroup:
        aegis_header header
        u64 cgroup_id
        u32 path_bytes

    struct aegis_synthetic:
        aegis_header header
        u64 key
        u64 value

    struct aegis_flow_key:
        u8 local[16]
        u8 remote[16]
        u16 local_port
        u16 remote_port
        u32 ifindex
        u16 vlan_outer
        u16 vlan_inner
        u8 protocol
        u8 fragment

    struct aegis_flow_value:
        u64 packets[2]
        u64 bytes[2]
        u32 generation
        u32 judged
        u32 epoch
        u8 tcp_flags[2]
        u8 state
        u8 marks
        u64 owner
        u64 cookie
        u64 first_ns
        u64 dropped_packets
        u64 extra_segments
        u64 harvested

    struct aegis_flow_row:
        aegis_flow_key key
        aegis_flow_value value

    struct aegis_verdict_record:
        aegis_header header
        aegis_flow_key key
        u64 owner
        u64 generation
        u64 cookie
        u32 suppressed
        u32 rule
        u8 verdict
        u8 initiator

    struct aegis_reader:
        u32 armed
        u64 read[16]

    enum:
        AEGIS_IMAGE_MAGIC
        AEGIS_IMAGE_FORMAT
        AEGIS_IMAGE_DEPTH
        AEGIS_IMAGE_V4_BITS
        AEGIS_IMAGE_NAME_PARTS
        AEGIS_CHOICE_BITS
        AEGIS_CHOICE_NONE
        AEGIS_WORD_CLASS_SHIFT
        AEGIS_WORD_FAMILY_SHIFT

    struct aegis_image_header:
        u32 magic
        u32 format
        u32 bytes
        u32 rules
        u32 enforced
        u32 deadlines
        u32 deadline_count
        u32 parts
        u32 part_count
        u32 classes
        u32 class_count
        u32 cells
        u32 cell_count
        u32 names
        u32 name_count
        u32 name_words
        u32 name_word_count
        u64 subjects

    struct aegis_image_part:
        u32 v4_bits
        u32 v4_index
        u32 v4
        u32 v4_count
        u32 v6
        u32 v6_count
        u64 defaults[2]

    struct aegis_image_v4:
        u32 start
        u32 owner

    struct aegis_image_v6:
        u64 start_high
        u64 start_low
        u64 owner

    struct aegis_image_class:
        u32 cell
        u32 parent
        u64 above
