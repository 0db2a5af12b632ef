/* SPDX-License-Identifier: Apache-2.0 */
/* The records of the slot. */
#ifndef DI_ATTENTION_PARTS_H
#define DI_ATTENTION_PARTS_H

#include <dropin/attention.h>

extern const di_attention di_softmax, di_sigmoid;

#endif
