/* SPDX-License-Identifier: Apache-2.0 */
/* `dropin bench optimizer`: one step of each, in turns, against scaling an array in place. */
#include "cli/bench.h"
#include "cli/measure.h"
#include "core/parallel.h"
#include <dropin/nn.h>
#include <dropin/optimizer.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 32, COLUMNS = 1024 /* of a parameter, where it divides its elements: projectors want matrices */ };

typedef struct optimizer_case {
    const di_exec *exec;
    const char *label;
    di_parameters *parameters;
    di_optimizer_instance *optimizer;
} optimizer_case;

typedef struct scaling {
    const di_exec *exec;
    di_dtype dtype;
    void *data;
    int64_t count;
} scaling;

static di_status scale_piece(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const scaling *s = user;
    int64_t first = index * DI_OPTIMIZER_PIECE, end = di_min(first + DI_OPTIMIZER_PIECE, s->count);
    if (s->dtype == DI_F64)
        for (int64_t i = first; i < end; i++)
            ((double *)s->data)[i] *= 0.999999;
    else
        for (int64_t i = first; i < end; i++)
            ((float *)s->data)[i] *= 0.999999f;
    return DI_OK;
}

static di_status run_scaling(void *user) {
    scaling *s = user;
    return di_parallel(s->exec, di_pieces(s->count, DI_OPTIMIZER_PIECE), scale_piece, s);
}

/* The gradient is that of the last backward in a training run: it stays what it is. */
static di_status run_step(void *user) {
    optimizer_case *c = user;
    for (int64_t i = 0; i < di_parameters_count(c->parameters); i++)
        di_parameters_at(c->parameters, i)->has_grad = true;
    return di_optimizer_step(c->exec, c->optimizer, 1e-6, 1, 0 /* no norm */, NULL);
}

static di_status make_parameters(optimizer_case *c, const di_bench_options *options) {
    di_dtype dtype = options->dtype ? DI_F64 : DI_F32;
    di_status status = di_parameters_create(c->exec, dtype, &c->parameters);
    if (status)
        return status;
    int64_t each = di_pieces(options->elements, options->tensors), left = options->elements;
    for (int64_t i = 0; i < options->tensors; i++, left -= di_min(each, left)) {
        char name[32];
        int64_t count = di_min(each, left);
        bool matrix = count % COLUMNS == 0;
        const int64_t shape[2] = {matrix ? count / COLUMNS : count, COLUMNS};
        snprintf(name, sizeof name, "p%lld", (long long)i);
        di_parameters_add(c->parameters, name, matrix ? 2 : 1, shape, DI_INIT_UNIFORM, 0.1, 0);
    }
    status = di_parameters_gradients(c->parameters);
    for (int64_t i = 0; i < di_parameters_count(c->parameters) && !status; i++) {
        const di_parameter *parameter = di_parameters_at(c->parameters, i);
        di_fill_normal(dtype, parameter->grad.data, di_tensor_count(&parameter->grad), (uint64_t)i);
    }
    return status;
}

/* The caller's own records come by their names; every other text, aliases too, is the library's. */
static di_status make_case(const di_cli *cli, const di_bench_options *options, const char *text, optimizer_case *c) {
    const di_optimizer *record = NULL;
    size_t length = strcspn(text, ":");
    int64_t own = 0;
    const di_optimizer *const *list = di_optimizer_list(&own);
    for (int64_t i = 0; i < cli->parts_count; i++)
        if (strcmp(cli->parts[i]->slot, "optimizer") == 0 && strlen(cli->parts[i]->name) == length &&
            strncmp(cli->parts[i]->name, text, length) == 0)
            record = (const di_optimizer *)cli->parts[i]; /* a record begins with its part */
    for (int64_t i = 0; i < own; i++)
        if (list[i] == record)
            record = NULL;
    c->label = text;
    di_status status =
        record ? di_optimizer_create_record(c->exec, record, text[length] ? text + length + 1 : NULL, &c->optimizer)
               : di_optimizer_create(c->exec, text, &c->optimizer);
    if (!status)
        status = make_parameters(c, options);
    for (int64_t i = 0; !status && i < di_parameters_count(c->parameters); i++)
        status = di_optimizer_add(c->optimizer, NULL, (di_parameter *[]){di_parameters_at(c->parameters, i)}, 1);
    return status;
}

static di_status report(di_cli *cli, const di_exec *exec, const di_bench_options *options, const optimizer_case *cases,
                        int32_t count, const di_measured *measured, double share) {
    static const char *const titles[] = {"optimizer", "s/step",       "ns a\nparameter",         "ratio to\nthe first",
                                         "GB/s",      "of scaling\n", "state bytes\na parameter"};
    double width = options->dtype ? 8 : 4, elements = (double)options->elements;
    double limit = 2 * width * elements / measured[count].seconds;
    fprintf(cli->out, "%lld elements in %lld tensor%s, %s, %d threads, level %s\n", (long long)options->elements,
            (long long)options->tensors, options->tensors == 1 ? "" : "s", options->dtype ? "f64" : "f32",
            (int)exec->threads, di_level_name(exec->level));
    fprintf(cli->out, "scaling an array in place: %.1f GB/s in the same run\n", limit * 1e-9);
    cJSON *json = di_bench_json("optimizer", options, exec, share), *rows = cJSON_GetObjectItem(json, "rows");
    cJSON_AddNumberToObject(json, "elements", elements);
    cJSON_AddNumberToObject(json, "tensors", (double)options->tensors);
    cJSON_AddNumberToObject(json, "scaling_gigabytes_per_second", limit * 1e-9);
    di_table_print *table = di_table_begin(7, titles);
    for (int32_t i = 0; i < count; i++) {
        double seconds = measured[i].seconds, state = (double)di_optimizer_state_bytes(cases[i].optimizer) / elements;
        double rate = (3 * width + 2 * state) * elements / seconds;
        di_table_cell(table, "%s", cases[i].label);
        di_table_cell(table, "%.4g", seconds);
        di_table_cell(table, "%.3f", seconds / elements * 1e9);
        di_table_cell(table, "%.3f", seconds / measured[0].seconds);
        di_table_cell(table, "%.1f", rate * 1e-9);
        di_table_cell(table, "%.0f %%", 100 * rate / limit);
        di_table_cell(table, "%.3f", state);
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(rows, row);
        cJSON_AddStringToObject(row, "optimizer", cases[i].label);
        cJSON_AddNumberToObject(row, "seconds", seconds);
        cJSON_AddNumberToObject(row, "ratio_to_first", seconds / measured[0].seconds);
        cJSON_AddNumberToObject(row, "gigabytes_per_second", rate * 1e-9);
        cJSON_AddNumberToObject(row, "of_scaling", rate / limit);
        cJSON_AddNumberToObject(row, "state_bytes_per_parameter", state);
    }
    di_table_end(table, cli);
    di_share_warn(cli, exec, share);
    if (options->json.value[0])
        return di_bench_json_end(exec, options->json.value, json);
    cJSON_Delete(json);
    return DI_OK;
}

di_status di_bench_optimizer(di_cli *cli, const di_exec *exec, const di_bench_options *options, int32_t words,
                             char **word) {
    optimizer_case cases[MOST] = {0};
    di_measured measured[MOST + 1];
    void *array = NULL;
    int64_t bytes = options->elements * (options->dtype ? 8 : 4); /* at most 1e11 elements */
    int32_t count = words ? words : 1;
    if (count > MOST)
        return di_fail(DI_ERANGE, "bench: %d optimizers; at most %d", (int)count, MOST);
    if (options->tensors > options->elements)
        return di_fail(DI_EINVAL, "bench: --tensors %lld is more than --elements %lld", (long long)options->tensors,
                       (long long)options->elements);
    di_status status = di_allocate(exec, (size_t)bytes, "bench: an array to be scaled", &array);
    for (int32_t i = 0; i < count && !status; i++) {
        cases[i].exec = exec;
        status = make_case(cli, options, words ? word[i] : "adamw", &cases[i]);
        measured[i] = (di_measured){.run = run_step, .user = &cases[i]};
    }
    scaling limit = {exec, options->dtype ? DI_F64 : DI_F32, array, options->elements};
    measured[count] = (di_measured){.run = run_scaling, .user = &limit};
    double cpu = 0, wall = 0;
    if (!status) {
        di_fill_normal(limit.dtype, array, limit.count, 0);
        cpu = di_cpu_seconds();
        wall = di_seconds();
        status = di_measure(cli, exec, "bench", measured, count + 1, options->repeats);
    }
    if (!status)
        status = report(cli, exec, options, cases, count, measured,
                        (di_cpu_seconds() - cpu) / (di_seconds() - wall) / exec->threads);
    for (int32_t i = 0; i < count; i++) {
        di_optimizer_destroy(cases[i].optimizer);
        di_parameters_destroy(cases[i].parameters);
    }
    di_release(exec, array, array ? (size_t)bytes : 0);
    return status;
}
