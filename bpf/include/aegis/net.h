/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef AEGIS_NET_H
#define AEGIS_NET_H

/* Direction as seen from this host; indexes every pair of per-direction counters. */
enum aegis_direction {
    AEGIS_EGRESS = 0,
    AEGIS_INGRESS = 1
};

#endif
