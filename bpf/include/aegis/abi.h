/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The one header a consumer names: everything kernel and user space share. */
#ifndef AEGIS_ABI_H
#define AEGIS_ABI_H

#include "aegis/types.h"
#include "aegis/version.h"
#include "aegis/limits.h"
#include "aegis/net.h"
#include "aegis/event.h"
#include "aegis/flow.h"
#include "aegis/policy.h"
#include "aegis/subject.h"
#include "aegis/names.h"
#include "aegis/life.h"
#include "aegis/config.h"
#include "aegis/counters.h"

#endif
