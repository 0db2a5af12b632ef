/* SPDX-License-Identifier: Apache-2.0 */
/* The claim of 8-bit optimizers (arXiv 2110.02861): state in blocks of 8-bit codes of a dynamic map trains like state
 * in 32 bits, where one scale a tensor or a linear map does not. Measured in a context window model over words whose
 * embedding, most rows without a gradient, is quantised too: the hard case. */
#include "claims/claims.h"
#include "claims/one_scale.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FULL, BLOCKS, LONG_BLOCKS, ONE_SCALE, LINEAR, LINEAR_ONE_SCALE, STABLE, STABLE_BLOCKS, PARTS };

static const struct {
    const char *label, *text, *model;
} variants[PARTS] = {{"32 bit", "adamw:weight_decay=0", NULL},
                     {"8 bit, blocks of 256", "adamw:weight_decay=0,bits=8", NULL},
                     {"8 bit, blocks of 2048", "adamw:weight_decay=0,bits=8,block=2048", NULL},
                     {"8 bit, one scale a tensor", "one_scale", NULL},
                     {"linear map, blocks of 256", "one_scale:map=linear,block=256", NULL},
                     {"linear map, one scale a tensor", "one_scale:map=linear", NULL},
                     {"stable embedding, 32 bit", "adamw:weight_decay=0", "stable=on,state32=on"},
                     {"stable embedding, 8 bit", "adamw:weight_decay=0,bits=8", "stable=on,state32=on"}};

static di_status prepare(di_claim_plan *plan) {
    for (int32_t i = 0; i < PARTS; i++)
        plan->parts[i] =
            (di_comparison_part){.optimizer = strncmp(variants[i].text, "one_scale", 9) == 0 ? &di_one_scale : NULL,
                                 .text = variants[i].text,
                                 .label = variants[i].label,
                                 .model = variants[i].model};
    plan->rates[0] = 2e-3;
    di_comparison_settings *settings = &plan->settings;
    settings->base =
        (di_trainer_config){.size = sizeof settings->base,
                            .kind = &di_model_window, /* whose defaults are this claim's */
                            .schedule = {.peak = 2e-3, .floor = 1, .warmup = 50, .steps = 400, .decay = DI_DECAY_NONE},
                            .batch = 128,
                            .dtype = DI_F32};
    settings->parts = plan->parts;
    settings->parts_count = PARTS;
    settings->rates = plan->rates;
    settings->rates_count = 1;
    settings->validation = 16000;
    settings->every = 1;
    return di_options_defaults("claim adamw8bit", di_window_part.options, &settings->base.model.window);
}

/* ---- the verdict ------------------------------------------------------------------------------------------------- */

/* ln of the ratio of perplexities is the difference of losses. */
static di_measure parity(const di_comparison *comparison, int32_t part, int32_t other, const char *name,
                         const char *expected) {
    di_sample_mean ratio = di_comparison_difference(comparison, part, other);
    return (di_measure){.name = name,
                        .expected = expected,
                        .rule = "ln of the ratio of perplexities: mean + 2 standard errors <= ln 1.03 = 0.0296",
                        .value = ratio.mean,
                        .error = ratio.error,
                        .holds = ratio.mean + 2 * ratio.error <= log(1.03)};
}

/* The mildest seed; infinite where every seed left the finite numbers. */
static di_measure damage(const di_comparison *comparison, int32_t part, const char *name, const char *expected) {
    double least = INFINITY;
    for (int64_t seed = 0; seed < comparison->settings.seeds; seed++) {
        double loss = di_comparison_at(comparison, part, 0, seed)->loss;
        if (isfinite(loss))
            least = fmin(least, exp(loss - di_comparison_at(comparison, FULL, 0, seed)->loss));
    }
    return (di_measure){.name = name,
                        .expected = expected,
                        .rule = "perplexity over that of 32 bit: 2 or more at every seed, or not finite",
                        .value = least,
                        .error = NAN,
                        .holds = least >= 2};
}

/* Geometric means over the seeds, as the paper speaks of them. */
static void note_perplexities(const di_comparison *comparison, di_claim_result *result) {
    static const char *const known[PARTS] = {"86.7",       "88.0",       "86.9", "> 5e14",
                                             "not finite", "not finite", "73.1", "74.1"};
    size_t used = (size_t)snprintf(result->notes, DI_NOTES,
                                   "Perplexity (in brackets: one to three other seeds of "
                                   "another generator)\n");
    for (int32_t part = 0; part < PARTS && used < DI_NOTES; part++) {
        di_sample_mean loss = di_comparison_loss(comparison, part, 0);
        char value[32] = "not finite";
        if (isfinite(loss.mean))
            snprintf(value, sizeof value, "%.4g", exp(loss.mean));
        used += (size_t)snprintf(result->notes + used, DI_NOTES - used, "  %-32s %s (%s)\n", variants[part].label,
                                 value, known[part]);
    }
}

static di_status judge(const di_exec *exec, const di_comparison *comparison, di_claim_result *result) {
    (void)exec;
    di_measure *measure = result->measures;
    int32_t count = 0;
    measure[count++] = parity(comparison, BLOCKS, FULL, "blocks of 256", "+1.5 % at three other seeds: 0.015");
    measure[count++] = parity(comparison, LONG_BLOCKS, FULL, "blocks of 2048", "+0.6 % at one other seed: 0.006");
    measure[count++] = parity(comparison, STABLE_BLOCKS, STABLE, "stable embedding", "+1.4 % at one other seed: 0.014");
    measure[count++] = damage(comparison, ONE_SCALE, "one scale a tensor", "> 5e12, or not finite");
    measure[count++] = damage(comparison, LINEAR, "linear map, blocks", "not finite");
    measure[count++] = damage(comparison, LINEAR_ONE_SCALE, "linear map, one scale", "not finite");
    di_sample_mean stable = di_comparison_difference(comparison, STABLE, FULL);
    measure[count++] = (di_measure){.name = "stable over plain",
                                    .expected = "stable embedding is better: ln (73.1 / 86.4) = -0.167 at one seed",
                                    .rule = "none: in 32 bit, both",
                                    .value = stable.mean,
                                    .error = stable.error,
                                    .holds = true,
                                    .beside = true};
    result->count = count;
    note_perplexities(comparison, result);
    return DI_OK;
}

const di_claim di_claim_adamw8bit = {
    .name = "adamw8bit",
    .says = "optimizer state in 8 bits, quantised in blocks with a dynamic map, reaches the quality of 32-bit state "
            "without a change of hyper-parameters, where one scale for a tensor or a linear map is unstable",
    .here = "Adam in a window model of three words, 503,664 weights, 400 steps, everything of 4096 elements or more "
            "quantised, the embedding too; stable embedding (its state in 32 bits) beside it. Perplexity on the first "
            "16,000 places of the validation file, paired by seed. A part that left the finite numbers is shown as "
            "diverged",
    .data = "WikiText-2: trained on test.txt, measured on valid.txt (1,256,449 and 1,121,681 bytes)",
    .data_hash = 0x65eecfa389fe156d,
    .minutes = 4,
    .held_out = 0.1,
    .training = "test.txt",
    .validation = "valid.txt",
    .symbols = DI_WORDS,
    .standard = FULL,
    .prepare = prepare,
    .judge = judge,
};
