/* SPDX-License-Identifier: Apache-2.0 */
/* Everything but the command line. */
#ifndef DROPIN_DROPIN_H
#define DROPIN_DROPIN_H

#include <dropin/attention.h>
#include <dropin/core.h>
#include <dropin/dlpack.h>
#include <dropin/nn.h>
#include <dropin/npy.h>
#include <dropin/optimizer.h>
#include <dropin/part.h>
#include <dropin/quantize.h>
#include <dropin/status.h>
#include <dropin/tape.h>
#include <dropin/tensor.h>

#endif
