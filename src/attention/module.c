/* SPDX-License-Identifier: Apache-2.0 */
/* Making and unmaking modules. */
#include "attention/module.h"

#include "core/parallel.h"

#include <string.h>

static di_status check_config(const di_attention_config *config, const di_attention *record) {
    if (!config || config->size != sizeof *config)
        return di_fail(DI_EINVAL, "%s: config.size=%zu; must be sizeof(di_attention_config)=%zu", record->part.name,
                       config ? config->size : (size_t)0, sizeof *config);
    const struct {
        const char *name;
        int64_t value, max;
    } rows[] = {{"heads", config->heads, 4096},
                {"kv_heads", config->kv_heads, 4096},
                {"dim", config->dim, 512},
                {"dim_v", config->dim_v, 512},
                {"max_length", config->max_length, INT32_MAX}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < 1 || rows[i].value > rows[i].max)
            return di_fail(DI_ERANGE, "%s: %s=%lld; must be 1..%lld", record->part.name, rows[i].name,
                           (long long)rows[i].value, (long long)rows[i].max);
    if (config->heads % config->kv_heads != 0)
        return di_fail(DI_ESHAPE, "%s: heads=%lld is not a multiple of kv_heads=%lld", record->part.name,
                       (long long)config->heads, (long long)config->kv_heads);
    return DI_OK;
}

/* Shapes of the parameters; their memory is one block, values and then gradients, each at a multiple of 64 bytes. */
static di_status lay_out(di_attention_module *module, int64_t *longest) {
    int64_t bytes = 0;
    *longest = 0;
    for (int64_t i = 0; module->record->parameter && i < DI_ATTENTION_PARAMETERS; i++) {
        di_attention_parameter spec = {NULL, 0, 0};
        di_parameter *parameter = &module->parameters[i];
        module->record->parameter(module->options, &module->config, i, &spec);
        if (!spec.name)
            continue;
        parameter->size = sizeof *parameter;
        strncpy(parameter->name, spec.name, sizeof parameter->name - 1);
        parameter->flags = spec.flags;
        di_status status = di_tensor_make(&parameter->value, NULL, module->dtype, 1, &spec.count);
        if (status != DI_OK)
            return status;
        parameter->grad = parameter->value;
        *longest = di_max(*longest, spec.count);
        bytes += di_round64(di_tensor_bytes(&parameter->value)) * (spec.flags & DI_PARAMETER_FROZEN ? 1 : 2);
    }
    module->memory_bytes = bytes;
    return di_allocate(&module->exec, (size_t)bytes, "the parameters of an attention", &module->memory);
}

static di_status fill(di_attention_module *module, double *values) {
    char *at = module->memory;
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++) {
        di_parameter *parameter = &module->parameters[i];
        if (!parameter->name[0])
            continue;
        int64_t bytes = di_round64(di_tensor_bytes(&parameter->value));
        parameter->value.data = at;
        at += bytes;
        if (!(parameter->flags & DI_PARAMETER_FROZEN)) {
            parameter->grad.data = at;
            at += bytes;
        }
        di_tensor from;
        di_status status = module->record->initialise(module->options, &module->config, i, values);
        if (status == DI_OK)
            status = di_tensor_make(&from, values, DI_F64, 1, parameter->value.shape);
        if (status == DI_OK)
            status = di_tensor_copy(&parameter->value, &from);
        if (status != DI_OK)
            return status;
    }
    return DI_OK;
}

static di_status make_parameters(di_attention_module *module) {
    int64_t longest;
    void *values = NULL;
    di_status status = lay_out(module, &longest);
    if (status == DI_OK)
        status = di_allocate(&module->exec, (size_t)longest * sizeof(double), "initial values", &values);
    if (status == DI_OK)
        status = fill(module, values);
    di_release(&module->exec, values, (size_t)longest * sizeof(double));
    return status;
}

di_status di_attention_create_record(const di_exec *exec, const di_attention *record, const char *options,
                                     di_dtype dtype, const di_attention_config *config, di_attention_module **module) {
    void *memory = NULL;
    if (!exec || !record || !module)
        return di_fail(DI_EINVAL, "attention: %s=NULL", !exec ? "exec" : !record ? "record" : "module");
    if (record->part.options_size > DI_OPTIONS_BYTES)
        return di_fail(DI_ERANGE, "%s: options_size=%zu; must be at most %d", record->part.name,
                       record->part.options_size, DI_OPTIONS_BYTES);
    if (dtype != DI_F32 && dtype != DI_F64)
        return di_fail(DI_EDTYPE, "%s: dtype=%s; must be f32 or f64", record->part.name, di_dtype_name(dtype));
    di_status status = check_config(config, record);
    if (status == DI_OK)
        status = di_allocate(exec, sizeof **module, "an attention", &memory);
    if (status != DI_OK)
        return status;
    di_attention_module *made = memory;
    memset(made, 0, sizeof *made);
    made->exec = *exec;
    made->record = record;
    made->config = *config;
    made->dtype = dtype;
    status = di_options_parse(&record->part, options, made->options);
    if (status == DI_OK)
        status = make_parameters(made);
    if (status != DI_OK) {
        di_attention_destroy(made);
        return status;
    }
    *module = made;
    return DI_OK;
}

di_status di_attention_create(const di_exec *exec, const char *text, di_dtype dtype, const di_attention_config *config,
                              di_attention_module **module) {
    const di_part *parts[16], *part;
    const char *options;
    int64_t count;
    const di_attention *const *list = di_attention_list(&count);
    for (int64_t i = 0; i < count; i++)
        parts[i] = &list[i]->part;
    di_status status = di_part_find(parts, count, "attention", text, &part, &options);
    /* part is the first member of its record */
    return status == DI_OK
               ? di_attention_create_record(exec, (const di_attention *)part, options, dtype, config, module)
               : status;
}

void di_attention_destroy(di_attention_module *module) {
    if (!module)
        return;
    di_exec exec = module->exec;
    di_release(&exec, module->memory, (size_t)module->memory_bytes);
    di_release(&exec, module, sizeof *module);
}

const di_attention *di_attention_module_record(const di_attention_module *module) { return module->record; }
const void *di_attention_module_options(const di_attention_module *module) { return module->options; }

int64_t di_attention_module_parameters(di_attention_module *module, di_parameter **list, int64_t capacity) {
    int64_t count = 0;
    for (int64_t i = 0; i < DI_ATTENTION_PARAMETERS; i++) {
        if (!module->parameters[i].name[0])
            continue;
        if (count < capacity)
            list[count] = &module->parameters[i];
        count++;
    }
    return count;
}
