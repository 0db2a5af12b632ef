/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the slot; optimizer.c lists them. */
#ifndef DI_OPTIMIZER_LIST_H
#define DI_OPTIMIZER_LIST_H

#include <dropin/optimizer.h>

extern const di_optimizer di_adamw;

#endif
