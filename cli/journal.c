/* SPDX-License-Identifier: Apache-2.0 */
/* Finished runs of a comparison on disk. A line is written with one append and synced; a process that is killed leaves
 * whole lines and at most one cut one, which is no JSON and is passed by. */
#include "cli/journal.h"
#include "core/files.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { JOURNAL_VERSION = 1 };

/* ---- the key ----------------------------------------------------------------------------------------------------- */

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *at = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ at[i]) * 0x100000001b3u;
    return hash;
}

static uint64_t hash_text(uint64_t hash, const char *text) { return hash_bytes(hash, text, strlen(text) + 1); }
static uint64_t hash_number(uint64_t hash, double value) { return hash_bytes(hash, &value, sizeof value); }
static uint64_t hash_integer(uint64_t hash, int64_t value) { return hash_bytes(hash, &value, sizeof value); }

/* The program itself: a part that was changed and built anew has new results. */
static uint64_t hash_program(uint64_t hash) {
    FILE *file = fopen("/proc/self/exe", "rb");
    char buffer[65536];
    if (!file)
        return hash_text(hash, di_version());
    for (size_t bytes; (bytes = fread(buffer, 1, sizeof buffer, file)) > 0;)
        hash = hash_bytes(hash, buffer, bytes);
    fclose(file);
    return hash;
}

static di_status hash_settings(const di_exec *exec, const di_comparison_settings *settings, uint64_t *key) {
    const di_trainer_config *base = &settings->base;
    char model[2048];
    const di_model *kind = base->kind ? base->kind : &di_model_gpt;
    di_status status =
        di_options_print(kind->part, di_model_own_options(kind, &base->model), true, model, sizeof model);
    if (status)
        return status;
    uint64_t hash = hash_program(0xcbf29ce484222325u);
    hash = hash_text(hash, kind->part->name);
    hash = hash_text(hash, model);
    hash = hash_text(hash, base->optimizer ? base->optimizer : "");
    hash = hash_text(hash, base->attention ? base->attention : "");
    hash = hash_number(hash, base->schedule.floor);
    hash = hash_integer(hash, base->schedule.warmup);
    hash = hash_integer(hash, base->schedule.steps);
    hash = hash_integer(hash, base->schedule.decay);
    hash = hash_integer(hash, base->batch);
    hash = hash_number(hash, base->clip);
    hash = hash_integer(hash, base->dtype);
    for (int64_t i = 0; i < settings->parts_count; i++) {
        const di_comparison_part *part = &settings->parts[i];
        const char *const texts[] = {part->text, part->label, part->model, part->group.pattern, part->group.overrides};
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++)
            hash = hash_text(hash, texts[k] ? texts[k] : "");
        hash = hash_number(hash, part->lr);
    }
    for (int64_t i = 0; i < settings->rates_count; i++)
        hash = hash_number(hash, settings->rates[i]);
    hash = hash_integer(hash, (int64_t)settings->first_seed);
    hash = hash_integer(hash, settings->seeds);
    hash = hash_integer(hash, settings->validation);
    hash = hash_integer(hash, settings->every);
    hash = hash_integer(hash, (int64_t)di_text_hash(settings->text));
    hash = hash_integer(hash, di_text_vocabulary(settings->text));
    hash = hash_integer(hash, di_text_count(settings->text, DI_TRAINING));
    hash = hash_integer(hash, exec->level);
    hash = hash_integer(hash, exec->threads); /* not the losses, but the times */
    *key = hash;
    return DI_OK;
}

/* ---- the place --------------------------------------------------------------------------------------------------- */

/* The folder, made where it is missing. */
static di_status make_folder(char *folder) {
    for (char *at = folder + 1;; at++) {
        if (*at && *at != '/')
            continue;
        char end = *at;
        *at = 0;
        bool made = mkdir(folder, 0700) == 0 || errno == EEXIST;
        if (!made)
            return di_fail(DI_EIO, "%s: cannot be made: %s", folder, strerror(errno));
        *at = end;
        if (!end)
            return DI_OK;
    }
}

static di_status find_place(di_journal *journal) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char folder[3900];
    int bytes;
    if (state && state[0] == '/')
        bytes = snprintf(folder, sizeof folder, "%s/dropin", state);
    else if (home && home[0] == '/')
        bytes = snprintf(folder, sizeof folder, "%s/.local/state/dropin", home);
    else
        return di_fail(DI_EIO, "neither XDG_STATE_HOME nor HOME names a folder");
    if ((size_t)bytes >= sizeof folder)
        return di_fail(DI_EIO, "the path of the state folder is too long");
    di_status status = make_folder(folder);
    if (!status)
        snprintf(journal->path, sizeof journal->path, "%s/compare-%016llx.jsonl", folder,
                 (unsigned long long)journal->key);
    return status;
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

/* The numbers of a run that are written, by name. */
typedef struct field {
    const char *name;
    size_t offset;
    bool whole; /* int64_t, else double */
} field;
static const field fields[] = {
    {"loss", offsetof(di_comparison_run, loss), false},
    {"seconds_per_step", offsetof(di_comparison_run, seconds_per_step), false},
    {"optimizer_seconds", offsetof(di_comparison_run, optimizer_seconds), false},
    {"product_rate", offsetof(di_comparison_run, product_rate), false},
    {"step_flops", offsetof(di_comparison_run, step_flops), false},
    {"parameters", offsetof(di_comparison_run, parameters), true},
    {"state_bytes", offsetof(di_comparison_run, state_bytes), true},
    {"peak_bytes", offsetof(di_comparison_run, peak_bytes), true},
    {"rss_bytes", offsetof(di_comparison_run, rss_bytes), true},
};
enum { FIELDS = sizeof fields / sizeof *fields };

/* JSON has no infinity: null, and NaN when it is read, which is as divergent. */
static double number_of(const cJSON *item) { return cJSON_IsNumber(item) ? item->valuedouble : NAN; }

static bool read_curve(const cJSON *object, const char *name, double *values, int32_t capacity, int32_t *count) {
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(object, name), *item;
    *count = 0;
    if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) > capacity)
        return false;
    cJSON_ArrayForEach(item, array) values[(*count)++] = number_of(item);
    return *count > 0;
}

static bool read_line(const di_journal *journal, const char *line, size_t bytes, di_comparison_run *run) {
    const di_comparison_settings *settings = journal->settings;
    cJSON *object = cJSON_ParseWithLength(line, bytes);
    const cJSON *part = cJSON_GetObjectItemCaseSensitive(object, "part");
    double seed = number_of(cJSON_GetObjectItemCaseSensitive(object, "seed"));
    double lr = number_of(cJSON_GetObjectItemCaseSensitive(object, "lr"));
    double version = number_of(cJSON_GetObjectItemCaseSensitive(object, "version"));
    bool good = version == JOURNAL_VERSION && cJSON_IsString(part);
    *run = (di_comparison_run){.part = -1, .rate = -1, .done = true};
    for (int32_t i = 0; good && i < settings->parts_count; i++)
        if (strcmp(di_comparison_label(&settings->parts[i]), part->valuestring) == 0)
            run->part = i;
    for (int32_t i = 0; good && i < settings->rates_count; i++)
        if (settings->rates[i] == lr)
            run->rate = i;
    double index = seed - (double)settings->first_seed;
    good = good && run->part >= 0 && run->rate >= 0 && index >= 0 && index < (double)settings->seeds;
    if (good)
        run->seed = (int32_t)index;
    for (size_t i = 0; good && i < FIELDS; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, fields[i].name);
        double value = number_of(item);
        good = item != NULL && (!fields[i].whole || (value >= 0 && value < 9007199254740992.0));
        if (good && fields[i].whole)
            *(int64_t *)((char *)run + fields[i].offset) = (int64_t)value;
        else if (good)
            *(double *)((char *)run + fields[i].offset) = value;
    }
    good = good &&
           read_curve(object, "training", run->training, DI_COMPARISON_TRAINING_POINTS, &run->training_points) &&
           read_curve(object, "validation", run->validation, DI_COMPARISON_VALIDATION_POINTS, &run->validation_points);
    cJSON_Delete(object);
    return good;
}

static char *write_line(const di_journal *journal, const di_comparison_run *run) {
    const di_comparison_settings *settings = journal->settings;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddNumberToObject(object, "version", JOURNAL_VERSION);
    cJSON_AddStringToObject(object, "part", di_comparison_label(&settings->parts[run->part]));
    cJSON_AddNumberToObject(object, "seed", (double)(settings->first_seed + (uint64_t)run->seed));
    cJSON_AddNumberToObject(object, "lr", settings->rates[run->rate]);
    for (size_t i = 0; i < FIELDS; i++) {
        const char *at = (const char *)run + fields[i].offset;
        cJSON_AddNumberToObject(object, fields[i].name,
                                fields[i].whole ? (double)*(const int64_t *)at : *(const double *)at);
    }
    cJSON_AddItemToObject(object, "training", cJSON_CreateDoubleArray(run->training, run->training_points));
    cJSON_AddItemToObject(object, "validation", cJSON_CreateDoubleArray(run->validation, run->validation_points));
    char *text = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    return text;
}

/* ---- the journal ------------------------------------------------------------------------------------------------- */

static di_status read_lines(di_journal *journal, const char *data, size_t bytes) {
    int64_t lines = 1;
    for (size_t i = 0; i < bytes; i++)
        lines += data[i] == '\n';
    journal->runs = calloc((size_t)lines, sizeof *journal->runs);
    if (!journal->runs)
        return di_fail(DI_ENOMEM, "out of memory for %lld lines", (long long)lines);
    for (size_t at = 0; at < bytes;) {
        const char *end = memchr(data + at, '\n', bytes - at);
        size_t length = end ? (size_t)(end - (data + at)) : bytes - at;
        if (length && read_line(journal, data + at, length, &journal->runs[journal->count]))
            journal->count++;
        at += length + 1;
    }
    journal->needs_newline = bytes > 0 && data[bytes - 1] != '\n';
    return DI_OK;
}

di_status di_journal_open(const di_exec *exec, const di_comparison_settings *settings, bool fresh,
                          di_journal *journal) {
    *journal = (di_journal){.exec = exec, .settings = settings};
    di_status status = hash_settings(exec, settings, &journal->key);
    if (!status)
        status = find_place(journal);
    if (status)
        return status;
    struct stat info;
    if (stat(journal->path, &info) != 0)
        return DI_OK;
    if (fresh) {
        di_journal_close(journal, true);
        return find_place(journal);
    }
    void *data;
    size_t bytes;
    status = di_file_read(exec, journal->path, (int64_t)1 << 30, &data, &bytes);
    if (!status) {
        journal->exists = true;
        status = read_lines(journal, data, bytes);
        di_release(exec, data, bytes);
    }
    if (status)
        journal->path[0] = 0;
    return status;
}

bool di_journal_recall(const di_journal *journal, di_comparison_run *run) {
    for (int64_t i = 0; i < journal->count; i++) {
        const di_comparison_run *known = &journal->runs[i];
        if (known->part == run->part && known->rate == run->rate && known->seed == run->seed) {
            *run = *known;
            return true;
        }
    }
    return false;
}

static int append(const di_files *files, const char *path, const char *text, size_t bytes) {
    void *file;
    int error = files->open(files->user, path, 'a', &file);
    if (error)
        return error;
    while (bytes && !error) {
        size_t done = 0;
        error = files->write(files->user, file, text, bytes, &done);
        text += done;
        bytes -= done;
    }
    if (!error)
        error = files->sync(files->user, file);
    int closed = files->close(files->user, file);
    return error ? error : closed;
}

di_status di_journal_append(di_journal *journal, const di_comparison_run *run) {
    if (!journal->path[0])
        return DI_OK;
    char *object = write_line(journal, run), *line = NULL;
    size_t bytes = object ? strlen(object) + 2 : 0;
    if (object)
        line = malloc(bytes + 1);
    if (!line) {
        free(object);
        return di_fail(DI_ENOMEM, "%s: out of memory for a line", journal->path);
    }
    snprintf(line, bytes + 1, "%s%s\n", journal->needs_newline ? "\n" : "", object);
    const di_files *files = di_files_of(journal->exec);
    int error = append(files, journal->path, line, strlen(line));
    if (!error && !journal->exists)
        error = files->sync_folder(files->user, journal->path);
    free(line);
    free(object);
    journal->needs_newline = error != 0; /* a part of the line may be there */
    journal->exists = true;
    return error ? di_fail(DI_EIO, "%s: %s", journal->path, strerror(error)) : DI_OK;
}

void di_journal_close(di_journal *journal, bool finished) {
    const di_files *files = di_files_of(journal->exec);
    if (finished && journal->path[0])
        (void)files->remove(files->user, journal->path); /* what stays behind is read again, and is right */
    free(journal->runs);
    journal->runs = NULL;
    journal->count = 0;
    journal->path[0] = 0;
}
