/* SPDX-License-Identifier: Apache-2.0 */
/* Moves between memory of any floating dtype and the DI_REAL that rules compute in, and what policies ask of a
 * gradient. */
#ifndef DI_OPTIMIZER_STAGE_H
#define DI_OPTIMIZER_STAGE_H

#include "core/tables.h"

typedef struct di_stage_table {
    void (*load)(void *out, const void *in, di_dtype dtype, int64_t count); /* from f32, f64 or bf16 */
    void (*store)(uint16_t *out, const void *in, int64_t count);            /* bf16, nearest, ties to even; via f32 */
    int64_t (*bad)(const void *x, double scale, int64_t count);             /* how many (scale x)² are not finite */
    int64_t (*zeros)(const void *x, int64_t count);                         /* how many are 0 */
} di_stage_table;

DI_TABLES(di_stage_table, di_stage)

#endif
