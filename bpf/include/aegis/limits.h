/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef AEGIS_LIMITS_H
#define AEGIS_LIMITS_H

enum aegis_limits {
    AEGIS_COMM_BYTES = 16,
    AEGIS_ARGS_BYTES = 16384, /* longest argument block carried; the true length is in the record */
    AEGIS_PATH_BYTES = 4096,
    AEGIS_ANCESTORS = 8,
    AEGIS_CGROUP_PATH_BYTES = 1024,
    AEGIS_IPV6_EXTENSIONS = 6, /* headers walked before a packet is refused */
    AEGIS_POLICY_SLOTS = 4,
    AEGIS_MAX_RULES = 131072
};

/* Bytes of an image: fixed when the programs are loaded, and changed by loading them again. A size has room
 * for the hits of a rule for each 64 bytes, of AEGIS_MAX_RULES at most. */
enum aegis_image_size {
    AEGIS_IMAGE_SMALL = 65536,
    AEGIS_IMAGE_MEDIUM = 1048576,
    AEGIS_IMAGE_LARGE = 16777216
};

#endif
