/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef AEGIS_VERSION_H
#define AEGIS_VERSION_H

/* Names the directory of the pins: a layout change of any pinned map raises it. */
enum aegis_abi {
    AEGIS_ABI_VERSION = 2
};

#endif
