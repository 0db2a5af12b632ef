/* SPDX-License-Identifier: Apache-2.0 */
/* An algorithm: how many values it keeps for an element, its constants of a step, and its loops over contiguous
 * elements. It knows nothing of dtypes, codes, policies and projections: pipeline.c brings these. */
#ifndef DI_OPTIMIZER_RULE_H
#define DI_OPTIMIZER_RULE_H

#include "core/tables.h"
#include "optimizer/common.h"

enum { DI_RULE_STATES = 3 };

/* A value per element that is kept between steps. */
typedef struct di_rule_state {
    const char *name;                    /* NULL: these options keep no such value */
    const char *scale_name, *table_name; /* of its blocks in 8 bits, and of a map that came with loaded codes */
    bool is_signed;                      /* may be negative: the signed map */
} di_rule_state;

/* `count` contiguous elements, and the constants of this step, prepared in double. Arrays hold DI_REAL and do not
 * overlap. */
typedef struct di_rule_call {
    void *p;
    const void *g;
    void *state[DI_RULE_STATES]; /* NULL: not kept */
    void *direction;             /* measure() writes the direction here and changes nothing else */
    int64_t count;
    double grad_scale;    /* negative to maximise */
    double coupled_decay; /* g' = grad_scale g + this p; 0: none */
    double decay;         /* p is multiplied by it */
    double step_size;
    double unit;            /* step_size for a learning rate of 1: of the direction */
    double direction_decay; /* the direction has this p added */
    double beta1, beta2, beta3, alpha, root, eps, momentum, input;
    bool decays_after, nesterov, first;
} di_rule_call;

typedef struct di_rule_table {
    void (*update)(const di_rule_call *call);
    void (*measure)(const di_rule_call *call); /* NULL: never asked for */
} di_rule_table;

typedef struct di_rule {
    void (*states)(const void *options, di_rule_state states[DI_RULE_STATES]); /* zeroed before */
    /* Fills in the constants; arrays and count come later. update->totals in pass 1: Σ p², Σ direction². */
    void (*prepare)(const void *options, const di_update *update, di_rule_call *call);
    const di_rule_table *(*table)(di_dtype dtype, di_level level);
    bool (*measures)(const void *options);                 /* pass 0 takes the norms; NULL: no passes */
    double (*initial)(const void *options, int32_t state); /* of a value at the start; NULL: 0 */
    bool compat;                                           /* compat=bnb changes its states */
} di_rule;

DI_TABLES(di_rule_table, di_adam_rule)
DI_TABLES(di_rule_table, di_momentum_rule)
DI_TABLES(di_rule_table, di_rmsprop_rule)
DI_TABLES(di_rule_table, di_adagrad_rule)
DI_TABLES(di_rule_table, di_lion_rule)
DI_TABLES(di_rule_table, di_ademamix_rule)

/* base^exponent by squaring: the same bits with every C library. */
double di_power(double base, int64_t exponent);

/* ---- pipeline.c ------------------------------------------------------------------------------------------------- */

/* Arrays that a rule runs on in place of the parameter's own: all elements, of which update->first and count say the
 * piece. The state tensors of `update` have as many elements. */
typedef struct di_pipeline_target {
    void *p;
    const void *g;
    di_dtype p_dtype, g_dtype;
} di_pipeline_target;

/* Where one value of the rule lies: plain memory, or codes and scales. */
typedef struct di_rule_slot {
    char *plain; /* NULL: in codes */
    uint8_t *codes;
    float *scales;
    const float *table; /* of loaded codes; NULL: our own map */
    int32_t tensor;     /* place of the values or codes among the state tensors */
    bool is_signed, kept;
} di_rule_slot;
void di_pipeline_slots(const di_rule *rule, const di_update *update, di_rule_slot slots[DI_RULE_STATES]);
/* All values of a slot, decoded; and back, in blocks of the options. */
void di_slot_code(const di_rule_slot *slot, const di_optimizer_common *common, di_dtype dtype, void *values,
                  int64_t count, bool encodes);

/* The dtype that the rule computes in for a parameter: f64 for f64, else f32. */
di_dtype di_pipeline_dtype(di_dtype value);
/* The state tensors of the rule for `count` elements of a parameter, with a shape of their own (R's where it is
 * projected): per value one plain tensor, or codes (u8) and scales. */
DI_CHECKED di_status di_pipeline_state(const di_rule *rule, const void *options, di_dtype dtype, int32_t rank,
                                       const int64_t *shape, di_state_tensor tensors[DI_STATE_TENSORS], int32_t *count);
/* Fills in initial values that are not zero. */
void di_pipeline_begin(const di_rule *rule, const di_update *update);
/* Scratch of one worker, exec->work of di_pipeline_piece, for a value and a gradient of these dtypes; 0 where the rule
 * runs on their own memory. */
int64_t di_pipeline_work_bytes(const di_rule *rule, const di_update *update, di_dtype p, di_dtype g);
/* Writes new values of a bf16 parameter's elements at … at + count - 1, rounded as its options say. */
void di_pipeline_store(const di_exec *exec, const di_update *update, const float *values, int64_t at, int64_t count);
/* One piece: update->first … + count - 1, first a multiple of DI_OPTIMIZER_PIECE. target NULL: the parameter's. */
DI_CHECKED di_status di_pipeline_piece(const di_exec *exec, const di_rule *rule, const di_update *update,
                                       const di_pipeline_target *target);
/* All of update->first = 0 … count - 1, in one fork and join; exec->work holds di_pipeline_work_bytes for each of
 * exec->threads workers. */
DI_CHECKED di_status di_pipeline_all(const di_exec *exec, const di_rule *rule, const di_update *update,
                                     const di_pipeline_target *target);

#endif
