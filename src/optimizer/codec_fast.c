/* SPDX-License-Identifier: Apache-2.0 */
/* 8-bit codes at every level. */
#include "optimizer/codec_plain.c"
