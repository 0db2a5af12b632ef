/* SPDX-License-Identifier: Apache-2.0 */
/* Training a language model: one object that steps, evaluates, saves and resumes. A step is a pure function of the
 * state and the step number, so a run that was killed and resumed gives the bytes of the run that was not. */
#ifndef DI_TRAIN_TRAINER_H
#define DI_TRAIN_TRAINER_H

#include "models/model.h"
#include "train/text.h"
#include <dropin/optimizer.h>

typedef enum di_decay { DI_DECAY_COSINE, DI_DECAY_LINEAR, DI_DECAY_NONE } di_decay;
/* Learning rate of step s (from 0): peak (s + 1) / warmup in the first `warmup` steps, then from peak to floor * peak
 * at step `steps` by the law. */
typedef struct di_schedule {
    double peak, floor;
    int64_t warmup, steps;
    di_decay decay;
} di_schedule;
double di_schedule_lr(const di_schedule *schedule, int64_t step);

/* Parameters whose names fit the pattern ("hidden.*.weight", as a shell takes it) are a group of the optimizer's with
 * these options on top ("projector=[galore:rank=32]"). An lr among them, over the optimizer's own, multiplies the
 * schedule's. Both NULL: no group. */
typedef struct di_trainer_group {
    const char *pattern, *overrides;
} di_trainer_group;

typedef struct di_trainer_config {
    size_t size;
    const di_model *kind; /* NULL: the GPT */
    di_model_options model;
    const di_attention *record;           /* NULL: from the library's list */
    const char *attention;                /* "sigmoid:bias=auto"; unused by a model without attention */
    const di_optimizer *optimizer_record; /* NULL: from the library's list */
    const char *optimizer;                /* "adamw:beta2=0.95,weight_decay=0", "adamw8bit" */
    di_trainer_group group;
    di_schedule schedule;
    int64_t batch;
    double clip;   /* global norm; 0: none */
    uint64_t seed; /* weights and batches */
    di_dtype dtype;
} di_trainer_config;

typedef struct di_trainer_report {
    size_t size;
    int64_t step; /* steps done, this one included */
    double loss, lr, grad_norm;
    double seconds;           /* of this step */
    double optimizer_seconds; /* of the optimizer's part of it, norm and clipping included */
    bool finite;
} di_trainer_report;

typedef struct di_trainer di_trainer;
/* `text` must outlive the trainer. Refuses by name a text whose training or validation part is shorter than the context
 * and its target. Parameters flagged DI_PARAMETER_STATE_32 are a group with bits=32, where the optimizer has that
 * option. */
DI_CHECKED di_status di_trainer_create(const di_exec *exec, const di_trainer_config *config, const di_text_data *text,
                                       di_trainer **trainer);
void di_trainer_destroy(di_trainer *trainer);
/* One step on the batch of its number. A loss or gradient that is not finite: DI_OK, report->finite false, weights and
 * optimizer unchanged; the step is counted, so that the next one draws another batch. The learning rate comes from the
 * schedule: an lr among the optimizer's options is refused at creation. */
DI_CHECKED di_status di_trainer_step(di_trainer *trainer, di_trainer_report *report);
/* Mean over `batches` validation batches drawn from (seed, number): nats a symbol. Dropout is off; it runs on the
 * memory of the training step. */
DI_CHECKED di_status di_trainer_evaluate(di_trainer *trainer, uint64_t seed, int64_t batches, double *loss);
/* Mean over every `every`-th place of the validation part, at most `most` places from its first one on: nats a symbol.
 * For models that foretell one symbol. */
DI_CHECKED di_status di_trainer_evaluate_places(di_trainer *trainer, int64_t every, int64_t most, double *loss);
di_gpt *di_trainer_model(di_trainer *trainer); /* NULL: another model */
di_parameters *di_trainer_parameters(di_trainer *trainer);
int64_t di_trainer_steps(const di_trainer *trainer); /* done */
/* What it was created with, or what its checkpoint says; texts belong to the trainer. */
const di_trainer_config *di_trainer_settings(const di_trainer *trainer);
/* Exact cost of the training step (di_tape_plan) and bytes of the optimizer's state. */
DI_CHECKED di_status di_trainer_cost(di_trainer *trainer, di_tape_cost *cost, int64_t *optimizer_bytes);

int64_t di_trainer_state_bytes(const di_trainer *trainer); /* all that the optimizer keeps */

/* Checkpoint: one safetensors file with the weights ("model.PARAMETER"), the optimizer's state
 * ("optimizer.PARAMETER.step", "optimizer.PARAMETER.exp_avg" …) and these metadata. No time stamps: the same state
 * gives the same bytes.
 *
 *     dropin.checkpoint  version of this layout: "1"
 *     model              every option of the model: "layers=2,width=64,…"
 *     attention          name and every option: "sigmoid:bias=auto,…"
 *     optimizer          the same: "adamw:lr=0.001,…"
 *     run                schedule (peak, floor, warmup, steps, decay), batch, clip, dtype
 *     seed, step, optimizer.steps      decimal; steps count those done, the optimizer's those that changed something
 *     text.hash          16 hexadecimal digits; text.symbols: "characters", "bytes" or "words"; text.training: symbols
 * before the held-out tail; text.vocabulary: the symbols in order of their ids
 *
 * Numbers are the shortest decimals that read back to the same bits. */
/* DI_EUNSUPPORTED for another model than the GPT, and for a run with a group. */
DI_CHECKED di_status di_trainer_save(di_trainer *trainer, const char *path);
/* Goes on where the file stopped; config comes from the file. `records`: parts of the caller's own that its attention
 * or optimizer may name (NULL: none). A text with another hash is refused, naming both. */
DI_CHECKED di_status di_trainer_resume(const di_exec *exec, const char *path, const di_part *const *records,
                                       int64_t count, const di_text_data *text, di_trainer **trainer);
/* Only the model and its vocabulary, for eval and generate: the caller owns both. */
DI_CHECKED di_status di_checkpoint_model(const di_exec *exec, const char *path, const di_part *const *records,
                                         int64_t count, di_gpt **gpt, di_text_data **vocabulary);

#endif
