/* SPDX-License-Identifier: Apache-2.0 */
/* For the trainer's tests: a folder of their own, a small text, a model that steps in well under a millisecond. */
#ifndef DI_TESTS_SUPPORT_TRAINER_H
#define DI_TESTS_SUPPORT_TRAINER_H

#include "train/trainer.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];
static di_exec base;
static di_text_data *small_text;

static inline const char *path_of(const char *name) {
    static char path[8][160];
    static int next;
    next = (next + 1) % 8;
    snprintf(path[next], sizeof *path, "%s/%s", folder, name);
    return path[next];
}

static inline void check(di_status status) {
    if (status)
        fail_msg("%s: %s", di_status_text(status), di_message());
}

static inline void refused(di_status status, di_status expected, const char *word, const char *other) {
    if (status != expected || !strstr(di_message(), word) || !strstr(di_message(), other))
        fail_msg("status %d, message \"%s\"; expected %d, \"%s\" and \"%s\"", status, di_message(), expected, word,
                 other);
}

/* 600 characters of 12 kinds, from the random numbers: enough for the contexts below. */
static inline int start_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/dropin-trainer-XXXXXX");
    if (!mkdtemp(folder) || di_exec_init(&base) != DI_OK)
        return -1;
    base.threads = 1;
    FILE *file = fopen(path_of("text"), "wb");
    if (!file)
        return -1;
    for (uint64_t i = 0; i < 600; i++)
        fputc("the cat sand."[(int)(13 * di_random_uniform(9, 0, i / 5 % 7, i % 5))], file);
    if (fclose(file) != 0)
        return -1;
    return di_text_open(&base, path_of("text"), DI_CHARACTERS, 0.1, &small_text) != DI_OK;
}

static inline int end_folder(void **state) {
    (void)state;
    di_text_close(small_text);
    char command[96];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

static inline di_trainer_config small_config(void) {
    di_trainer_config config = {.size = sizeof config,
                                .attention = "sigmoid",
                                .optimizer = "adamw:beta2=0.95,weight_decay=0.01",
                                .schedule = {.peak = 0.01, .floor = 0.1, .warmup = 5, .steps = 60},
                                .batch = 3,
                                .clip = 1.0,
                                .seed = 7,
                                .dtype = DI_F32};
    check(di_options_parse(&di_gpt_part, "layers=1,width=16,heads=2,context=12", &config.model.gpt));
    return config;
}

static inline di_trainer *create(const di_exec *exec, const di_trainer_config *config) {
    di_trainer *trainer = NULL;
    check(di_trainer_create(exec, config, small_text, &trainer));
    return trainer;
}

static inline di_trainer *resume(const di_exec *exec, const char *path) {
    di_trainer *trainer = NULL;
    check(di_trainer_resume(exec, path, NULL, 0, small_text, &trainer));
    return trainer;
}

static inline void step_to(di_trainer *trainer, int64_t steps) {
    while (di_trainer_steps(trainer) < steps)
        check(di_trainer_step(trainer, NULL));
}

/* The whole file; its bytes stay until the call after next. */
static inline const char *file_bytes(const char *path, size_t *bytes) {
    static char content[2][1 << 20];
    static int next;
    next = !next;
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s is not there", path);
    *bytes = fread(content[next], 1, sizeof *content, file);
    assert_true(feof(file) || *bytes < sizeof *content);
    fclose(file);
    return content[next];
}

static inline bool same_files(const char *a, const char *b) {
    size_t bytes[2];
    const char *first = file_bytes(a, &bytes[0]), *second = file_bytes(b, &bytes[1]);
    return bytes[0] > 0 && bytes[0] == bytes[1] && memcmp(first, second, bytes[0]) == 0;
}

static inline void assert_same_files(const char *a, const char *b) {
    if (!same_files(a, b))
        fail_msg("%s and %s differ", a, b);
}

#endif
