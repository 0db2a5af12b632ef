/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the slot, which list.c lists; and creation with the options of an alias under the given ones. */
#ifndef DI_OPTIMIZER_LIST_H
#define DI_OPTIMIZER_LIST_H

#include <dropin/optimizer.h>

extern const di_optimizer di_adamw, di_adam, di_sgd, di_rmsprop, di_adagrad, di_lion, di_ademamix, di_lamb, di_lars;

DI_CHECKED di_status di_optimizer_create_preset(const di_exec *exec, const di_optimizer *record, const char *preset,
                                                const char *options, di_optimizer_instance **optimizer);

#endif
