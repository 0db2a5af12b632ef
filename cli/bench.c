/* SPDX-License-Identifier: Apache-2.0 */
/* `dropin bench`: parts of the slot attention against the standard one and against the rate of products, all in one
 * run; and the products themselves. Optimizers are in bench_optimizer.c. */
#include "cli/bench.h"
#include "cli/measure.h"
#include "cli/output.h"
#include <cjson/cJSON.h>
#include <dropin/attention.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const di_option rows[] = {{.name = "batch",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, batch),
                                  .value = "4",
                                  .min = 1,
                                  .max = 4096,
                                  .help = "attention: sequences"},
                                 {.name = "heads",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, heads),
                                  .value = "8",
                                  .min = 1,
                                  .max = 1024,
                                  .help = "attention: query heads"},
                                 {.name = "kv_heads",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, kv_heads),
                                  .value = "auto",
                                  .min = 1,
                                  .max = 1024,
                                  .flags = DI_AUTO,
                                  .help = "attention: key and value heads; auto = heads"},
                                 {.name = "length",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, length),
                                  .value = "1024",
                                  .min = 1,
                                  .max = 1048576,
                                  .help = "attention: queries and keys"},
                                 {.name = "dim",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, dim),
                                  .value = "64",
                                  .min = 1,
                                  .max = 512,
                                  .help = "attention: features of a head"},
                                 {.name = "causal",
                                  .type = DI_BOOL,
                                  .offset = DI_FIELD(bool, di_bench_options, causal),
                                  .value = "off",
                                  .help = "attention: a query sees no later key"},
                                 {.name = "window",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, window),
                                  .value = "-1",
                                  .min = -1,
                                  .max = 1048576,
                                  .help = "attention: keys to the left that a query sees; -1: all"},
                                 {.name = "elements",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, elements),
                                  .value = "4194304",
                                  .min = 1,
                                  .max = 1e11,
                                  .help = "optimizer: of all parameters together"},
                                 {.name = "tensors",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, tensors),
                                  .value = "1",
                                  .min = 1,
                                  .max = 100000,
                                  .help = "optimizer: parameters that they are divided over"},
                                 {.name = "dtype",
                                  .type = DI_CHOICE,
                                  .offset = DI_FIELD(int32_t, di_bench_options, dtype),
                                  .value = "f32",
                                  .choices = "f32|f64",
                                  .help = "of everything"},
                                 {.name = "repeats",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, repeats),
                                  .value = "9",
                                  .min = 1,
                                  .max = 9999,
                                  .help = "rounds; the median counts"},
                                 {.name = "threads",
                                  .type = DI_INT,
                                  .offset = DI_FIELD(int64_t, di_bench_options, threads),
                                  .value = "auto",
                                  .min = 1,
                                  .max = 1024,
                                  .flags = DI_AUTO,
                                  .help = "auto: what affinity and the container's quota give"},
                                 {.name = "json",
                                  .type = DI_TEXT,
                                  .offset = DI_FIELD(di_text, di_bench_options, json),
                                  .value = "",
                                  .help = "writes the figures to this file, too"},
                                 {.name = NULL}};

/* ---- JSON ----------------------------------------------------------------------------------------------------------
 */

cJSON *di_bench_json(const char *what, const di_bench_options *options, const di_exec *exec, double share) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "version", 1);
    cJSON_AddStringToObject(json, "bench", what);
    cJSON_AddStringToObject(json, "dropin", di_version());
    cJSON_AddStringToObject(json, "level", di_level_name(exec->level));
    cJSON_AddStringToObject(json, "dtype", options->dtype ? "f64" : "f32");
    cJSON_AddNumberToObject(json, "threads", exec->threads);
    cJSON_AddNumberToObject(json, "repeats", (double)options->repeats);
    cJSON_AddNumberToObject(json, "machine_share", share);
    cJSON_AddArrayToObject(json, "rows");
    return json;
}

di_status di_bench_json_end(const di_exec *exec, const char *path, cJSON *json) {
    char *text = cJSON_Print(json);
    cJSON_Delete(json);
    if (!text)
        return di_fail(DI_ENOMEM, "bench: no memory for the JSON text");
    di_status status = di_output_write(exec, path, text, strlen(text));
    cJSON_free(text);
    return status;
}

/* ---- attention ------------------------------------------------------------------------------------------------------
 */

enum { MAX_PARTS = 64 };

/* The tensors, shared by all parts: they take turns. */
typedef struct bench_tensors {
    di_heads q, k, v, out, d_out, d_q, d_k, d_v;
    void *memory[8];
    int64_t bytes[8];
} bench_tensors;

typedef struct attention_case {
    const di_attention *record;
    char label[280];
    _Alignas(64) unsigned char options[DI_OPTIONS_BYTES];
    di_exec exec; /* with scratch enough for both directions */
    di_attention_shape shape;
    const bench_tensors *tensors;
    void *saved;
    int64_t saved_bytes;
} attention_case;

typedef struct attention_bench {
    di_cli *cli;
    const di_bench_options *given;
    di_exec exec;
    di_attention_shape shape;
    bench_tensors tensors;
    attention_case *cases; /* the standard part first */
    int32_t count;
    di_product_case product;
} attention_bench;

static di_status make_tensors(attention_bench *bench) {
    const di_attention_shape *s = &bench->shape;
    bench_tensors *t = &bench->tensors;
    di_heads *const heads[8] = {&t->q, &t->out, &t->d_out, &t->d_q, &t->k, &t->v, &t->d_k, &t->d_v};
    for (int i = 0; i < 8; i++) {
        int64_t count = i < 4 ? s->heads : s->kv_heads;
        di_tensor tensor;
        di_status status =
            di_tensor_make(&tensor, NULL, s->dtype, 4, (const int64_t[]){s->batch, s->q_length, count, s->dim});
        if (status == DI_OK)
            status = di_allocate(&bench->exec, (size_t)di_tensor_bytes(&tensor), "bench: tensors", &t->memory[i]);
        if (status != DI_OK)
            return status;
        t->bytes[i] = di_tensor_bytes(&tensor);
        *heads[i] = (di_heads){t->memory[i], tensor.stride[0], tensor.stride[1], tensor.stride[2]};
        di_fill_normal(s->dtype, t->memory[i], di_tensor_count(&tensor), (uint64_t)i);
    }
    return DI_OK;
}

static di_attention_io case_io(const attention_case *one) {
    const bench_tensors *t = one->tensors;
    return (di_attention_io){.size = sizeof(di_attention_io), .q = t->q, .k = t->k, .v = t->v, .out = t->out};
}

static di_status run_forward(void *user) {
    const attention_case *one = user;
    const di_attention_io io = case_io(one);
    return di_attention_forward(&one->exec, one->record, one->options, &one->shape, &io, NULL);
}

static di_status run_both(void *user) {
    const attention_case *one = user;
    const di_attention_io io = case_io(one);
    const bench_tensors *t = one->tensors;
    const di_attention_grad grad = {
        .size = sizeof(di_attention_grad), .out = t->d_out, .q = t->d_q, .k = t->d_k, .v = t->d_v};
    di_status status = di_attention_forward(&one->exec, one->record, one->options, &one->shape, &io, one->saved);
    if (status == DI_OK)
        status = di_attention_backward(&one->exec, one->record, one->options, &one->shape, &io, one->saved, &grad);
    return status;
}

/* Parses one part's text and gives it scratch. */
static di_status add_case(attention_bench *bench, const di_part *part, const char *options, const char *label) {
    if (bench->count == MAX_PARTS)
        return di_fail(DI_ERANGE, "bench: more than %d parts", MAX_PARTS);
    attention_case *one = &bench->cases[bench->count++];
    *one = (attention_case){.record = (const di_attention *)part, /* a record begins with its part */
                            .exec = bench->exec,
                            .shape = bench->shape,
                            .tensors = &bench->tensors};
    snprintf(one->label, sizeof one->label, "%s", label);
    if (part->options_size > sizeof one->options)
        return di_fail(DI_EINVAL, "%s: options of %zu bytes; must be at most %d", part->name, part->options_size,
                       DI_OPTIONS_BYTES);
    int64_t forward, backward;
    di_status status = di_options_parse(part, options, one->options);
    if (status == DI_OK)
        status = di_attention_workspace(&bench->exec, one->record, one->options, &one->shape, false, &forward);
    if (status == DI_OK)
        status = di_attention_workspace(&bench->exec, one->record, one->options, &one->shape, true, &backward);
    if (status == DI_OK)
        status = di_attention_saved(one->record, one->options, &one->shape, &one->saved_bytes);
    if (status != DI_OK) {
        one->saved_bytes = 0;
        return status;
    }
    size_t work = (size_t)(forward > backward ? forward : backward);
    if ((status = di_allocate(&bench->exec, work, "bench: scratch", &one->exec.work)) == DI_OK)
        one->exec.work_bytes = work;
    if (status == DI_OK)
        status = di_allocate(&bench->exec, (size_t)one->saved_bytes, "bench: saved bytes", &one->saved);
    return status;
}

/* The standard part, then those named, or all of the slot that can do what is asked. */
static di_status add_cases(attention_bench *bench, int32_t words, char **word) {
    di_cli *cli = bench->cli;
    const di_part *standard = &di_attention_list(&(int64_t){0})[0]->part;
    di_status status = add_case(bench, standard, "", standard->name);
    uint32_t wanted = bench->given->causal ? DI_CAUSAL : DI_BIDIRECTIONAL;
    if (bench->given->window >= 0)
        wanted |= DI_WINDOW;
    if (bench->shape.kv_heads != bench->shape.heads)
        wanted |= DI_GROUPED;
    for (int64_t i = 0; words == 0 && i < cli->parts_count && status == DI_OK; i++) {
        const di_part *part = cli->parts[i];
        if (strcmp(part->slot, "attention") != 0 || part == standard)
            continue;
        if ((part->traits & wanted) == wanted)
            status = add_case(bench, part, "", part->name);
        else
            fprintf(cli->err, "bench: %s cannot do that, passed by\n", part->name);
    }
    for (int32_t i = 0; i < words && status == DI_OK; i++) {
        const di_part *part;
        const char *options;
        status = di_part_find(cli->parts, cli->parts_count, "attention", word[i], &part, &options);
        if (status == DI_OK && strcmp(word[i], standard->name) != 0)
            status = add_case(bench, part, options, word[i]);
    }
    return status;
}

static void rate_cells(di_table_print *table, double seconds, double flops, double rate, double standard) {
    di_table_cell(table, "%.4g", seconds);
    di_table_cell(table, "%.1f", flops / seconds * 1e-9);
    di_table_cell(table, "%.0f %%", 100 * flops / seconds / rate);
    di_table_cell(table, "%.3f", seconds / standard);
}

static void json_rates(cJSON *row, const char *what, double seconds, double flops, double rate, double standard) {
    cJSON *object = cJSON_AddObjectToObject(row, what);
    cJSON_AddNumberToObject(object, "seconds", seconds);
    cJSON_AddNumberToObject(object, "gflops", flops / seconds * 1e-9);
    cJSON_AddNumberToObject(object, "of_product_rate", flops / seconds / rate);
    cJSON_AddNumberToObject(object, "ratio_to_standard", seconds / standard);
}

static di_status report_attention(attention_bench *bench, const di_measured *cases) {
    static const char *const titles[] = {"attention",     "forward\nseconds", "\nGFLOP/s", "of\nrate", "\nratio",
                                         "both\nseconds", "\nGFLOP/s",        "of\nrate",  "\nratio"};
    const di_bench_options *o = bench->given;
    const di_attention_shape *s = &bench->shape;
    int64_t size = DI_PRODUCT_RATE_SIZE;
    double rate = di_product_flops(size, size, size) / cases[2 * bench->count].seconds;
    double share = di_product_share(&bench->product);
    fprintf(bench->cli->out, "batch %lld, heads %lld (kv %lld), length %lld, dim %lld, %s, %s, %d threads, level %s\n",
            (long long)s->batch, (long long)s->heads, (long long)s->kv_heads, (long long)s->q_length, (long long)s->dim,
            o->causal ? "causal" : "full", o->dtype ? "f64" : "f32", (int)bench->exec.threads,
            di_level_name(bench->exec.level));
    fprintf(bench->cli->out,
            "rate: %.1f GFLOP/s, products of %lld³ in the same run; ratio: to the seconds of %s; both: with backward\n",
            rate * 1e-9, (long long)size, bench->cases[0].label);
    cJSON *json = di_bench_json("attention", o, &bench->exec, share);
    cJSON *list = cJSON_GetObjectItem(json, "rows");
    cJSON_AddNumberToObject(json, "product_gflops", rate * 1e-9);
    cJSON_AddNumberToObject(json, "batch", (double)s->batch);
    cJSON_AddNumberToObject(json, "heads", (double)s->heads);
    cJSON_AddNumberToObject(json, "kv_heads", (double)s->kv_heads);
    cJSON_AddNumberToObject(json, "length", (double)s->q_length);
    cJSON_AddNumberToObject(json, "dim", (double)s->dim);
    cJSON_AddNumberToObject(json, "window", (double)o->window);
    cJSON_AddBoolToObject(json, "causal", o->causal);
    di_table_print *table = di_table_begin(9, titles);
    for (int32_t i = 0; i < bench->count; i++) {
        const attention_case *one = &bench->cases[i];
        double forward = one->record->flops ? one->record->flops(one->options, s, false) : NAN;
        double both = one->record->flops ? forward + one->record->flops(one->options, s, true) : NAN;
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(list, row);
        cJSON_AddStringToObject(row, "part", one->label);
        di_table_cell(table, "%s", one->label);
        rate_cells(table, cases[2 * i].seconds, forward, rate, cases[0].seconds);
        rate_cells(table, cases[2 * i + 1].seconds, both, rate, cases[1].seconds);
        json_rates(row, "forward", cases[2 * i].seconds, forward, rate, cases[0].seconds);
        json_rates(row, "forward_backward", cases[2 * i + 1].seconds, both, rate, cases[1].seconds);
    }
    di_table_end(table, bench->cli);
    di_share_warn(bench->cli, &bench->exec, share);
    if (o->json.value[0])
        return di_bench_json_end(&bench->exec, o->json.value, json);
    cJSON_Delete(json);
    return DI_OK;
}

static di_status measure_attention(attention_bench *bench, int32_t words, char **word) {
    di_status status = make_tensors(bench);
    if (status == DI_OK)
        status = add_cases(bench, words, word);
    int64_t size = DI_PRODUCT_RATE_SIZE;
    if (status == DI_OK)
        status = di_product_case_make(&bench->exec, bench->shape.dtype, size, size, size, false, &bench->product);
    if (status != DI_OK)
        return status;
    di_measured cases[2 * MAX_PARTS + 1];
    for (int32_t i = 0; i < bench->count; i++) {
        cases[2 * i] = (di_measured){.run = run_forward, .user = &bench->cases[i]};
        cases[2 * i + 1] = (di_measured){.run = run_both, .user = &bench->cases[i]};
    }
    cases[2 * bench->count] = (di_measured){.run = di_product_case_run, .user = &bench->product};
    status = di_measure(bench->cli, &bench->exec, "bench", cases, 2 * bench->count + 1, bench->given->repeats);
    if (status == DI_OK)
        status = report_attention(bench, cases);
    di_product_case_free(&bench->product);
    return status;
}

static di_status bench_attention(di_cli *cli, const di_exec *exec, const di_bench_options *options, int32_t words,
                                 char **word) {
    attention_bench bench = {.cli = cli, .given = options, .exec = *exec};
    di_attention_shape_init(&bench.shape, options->dtype ? DI_F64 : DI_F32, options->batch, options->length,
                            options->length, options->heads, options->dim, options->causal);
    bench.shape.kv_heads = options->kv_heads == INT64_MIN ? options->heads : options->kv_heads;
    if (options->heads % bench.shape.kv_heads != 0)
        return di_fail(DI_EINVAL, "bench: --heads %lld is not a multiple of --kv-heads %lld", (long long)options->heads,
                       (long long)bench.shape.kv_heads);
    bench.shape.mask.left = options->window;
    if (!(bench.cases = calloc(MAX_PARTS, sizeof *bench.cases)))
        return di_fail(DI_ENOMEM, "bench: no memory for %d parts", MAX_PARTS);
    di_status status = measure_attention(&bench, words, word);
    for (int32_t i = 0; i < bench.count; i++) {
        di_release(exec, bench.cases[i].saved, (size_t)bench.cases[i].saved_bytes);
        di_release(exec, bench.cases[i].exec.work, bench.cases[i].exec.work_bytes);
    }
    for (int i = 0; i < 8; i++)
        di_release(exec, bench.tensors.memory[i], (size_t)bench.tensors.bytes[i]);
    free(bench.cases);
    return status;
}

/* ---- products -------------------------------------------------------------------------------------------------------
 */

typedef struct product_shape {
    int64_t m, n, k;
    bool stream;
} product_shape;

/* Large and small squares, the layers of a small and of a medium GPT, and one row for decoding. */
static const product_shape shapes[] = {{1024, 1024, 1024, false}, {512, 512, 512, false},  {2048, 64, 64, false},
                                       {2048, 256, 64, false},    {2048, 384, 384, false}, {2048, 1536, 384, false},
                                       {2048, 384, 1536, false},  {1, 4096, 1024, true},   {16, 4096, 1024, true}};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static di_status report_products(di_cli *cli, const di_exec *exec, const di_bench_options *options,
                                 const di_product_case *products, const di_measured *cases) {
    static const char *const titles[] = {"product", "m", "n", "k", "s", "GFLOP/s", "of the first", "GB/s"};
    double rate = di_product_flops(shapes[0].m, shapes[0].n, shapes[0].k) / cases[0].seconds;
    double share = di_product_share(&products[0]);
    cJSON *json = di_bench_json("products", options, exec, share);
    di_table_print *table = di_table_begin(8, titles);
    fprintf(cli->out, "%s, %d threads, level %s\n", options->dtype ? "f64" : "f32", (int)exec->threads,
            di_level_name(exec->level));
    for (int i = 0; i < SHAPES; i++) {
        const product_shape *shape = &shapes[i];
        double flops = di_product_flops(shape->m, shape->n, shape->k), seconds = cases[i].seconds;
        double bytes = (double)(products[i].bytes[0] + products[i].bytes[1] + products[i].bytes[2]);
        di_table_cell(table, "%s", shape->stream ? "stream" : "tiled");
        di_table_cell(table, "%lld", (long long)shape->m);
        di_table_cell(table, "%lld", (long long)shape->n);
        di_table_cell(table, "%lld", (long long)shape->k);
        di_table_cell(table, "%.4g", seconds);
        di_table_cell(table, "%.1f", flops / seconds * 1e-9);
        di_table_cell(table, "%.0f %%", 100 * flops / seconds / rate);
        di_table_cell(table, "%.1f", bytes / seconds * 1e-9);
        cJSON *row = cJSON_CreateObject();
        cJSON_AddItemToArray(cJSON_GetObjectItem(json, "rows"), row);
        cJSON_AddStringToObject(row, "product", shape->stream ? "stream" : "tiled");
        cJSON_AddNumberToObject(row, "m", (double)shape->m);
        cJSON_AddNumberToObject(row, "n", (double)shape->n);
        cJSON_AddNumberToObject(row, "k", (double)shape->k);
        cJSON_AddNumberToObject(row, "seconds", seconds);
        cJSON_AddNumberToObject(row, "gflops", flops / seconds * 1e-9);
        cJSON_AddNumberToObject(row, "gigabytes_per_second", bytes / seconds * 1e-9);
    }
    di_table_end(table, cli);
    di_share_warn(cli, exec, share);
    if (options->json.value[0])
        return di_bench_json_end(exec, options->json.value, json);
    cJSON_Delete(json);
    return DI_OK;
}

static di_status bench_products(di_cli *cli, const di_exec *exec, const di_bench_options *options) {
    di_product_case products[SHAPES];
    di_measured cases[SHAPES];
    di_status status = DI_OK;
    int made = 0;
    for (; made < SHAPES && status == DI_OK; made++) {
        const product_shape *shape = &shapes[made];
        status = di_product_case_make(exec, options->dtype ? DI_F64 : DI_F32, shape->m, shape->n, shape->k,
                                      shape->stream, &products[made]);
        cases[made] = (di_measured){.run = di_product_case_run, .user = &products[made]};
    }
    if (status == DI_OK)
        status = di_measure(cli, exec, "bench", cases, SHAPES, options->repeats);
    if (status == DI_OK)
        status = report_products(cli, exec, options, products, cases);
    for (int i = 0; i < made; i++)
        di_product_case_free(&products[i]);
    return status;
}

static int run_bench(di_cli *cli, const void *given, int32_t words, char **word) {
    const di_bench_options *options = given;
    di_exec exec;
    di_status status = di_cli_exec(cli, options->threads, &exec);
    if (status == DI_OK && options->json.value[0])
        status = di_output_check("bench: --json", options->json.value);
    if (status == DI_OK) {
        exec.progress = NULL; /* Ctrl-C is looked at between runs */
        if (strcmp(word[0], "attention") == 0)
            status = bench_attention(cli, &exec, options, words - 1, word + 1);
        else if (strcmp(word[0], "optimizer") == 0)
            status = di_bench_optimizer(cli, &exec, options, words - 1, word + 1);
        else if (strcmp(word[0], "products") == 0 && words == 1)
            status = bench_products(cli, &exec, options);
        else if (strcmp(word[0], "products") == 0)
            status = di_fail(DI_EINVAL, "bench: products takes no parts");
        else
            status = di_fail(DI_ENAME, "bench: unknown slot %s; must be attention, optimizer or products", word[0]);
    }
    return di_cli_report(cli, status);
}

const di_command di_command_bench = {
    .name = "bench",
    .usage = "bench attention|optimizer|products [PART[:options]]… [--json FILE] [OPTION]…",
    .help = "time parts against the standard one and against the machine",
    .details =
        "attention: forward, and forward with backward, of the standard part and of those named (without names: all). "
        "They take turns; the median of the rounds is set against the standard part's and against the rate of a large "
        "matrix product, both measured in the same run. FLOPs are counted as the papers do: 4 batch heads pairs dim "
        "forward, two and a half times that backward.\n"
        "optimizer: one step of each part named (without names: adamw), by all threads, set against scaling an array "
        "in place, which is the limit of what moves memory. Bytes are those of weights (read and written), gradients "
        "(read) and state (read and written).\n"
        "products: the matrix products themselves, at the shapes of the models.",
    .options = rows,
    .options_size = sizeof(di_bench_options),
    .min_words = 1,
    .max_words = -1,
    .run = run_bench};
