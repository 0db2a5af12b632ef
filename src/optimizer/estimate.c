/* SPDX-License-Identifier: Apache-2.0 */
/* How many bytes of state a parameter will have, before anything of it exists. */
#include "optimizer/instance.h"

static di_status estimate(const di_optimizer_instance *optimizer, di_parameter *parameter, int64_t *bytes) {
    const di_optimizer *record = optimizer->record;
    di_member member = {.update = {.size = sizeof(di_update), .options = optimizer->options, .parameter = parameter},
                        .bits = -1};
    int32_t count = 0, own = 0;
    di_status status = DI_OK;
    if (record->rule)
        status = di_common_check_parameter(record, optimizer->options, parameter);
    if (!status && record->rule)
        status = di_projected_make(optimizer, &member, optimizer->options, &member.projection);
    if (!status)
        status = di_member_layout(optimizer, &member, optimizer->options, member.state, &count, &own);
    *bytes = sizeof(int64_t); /* "step" */
    for (int32_t i = 0; i < count && !status; i++)
        if (!di_size_add(*bytes, di_tensor_bytes(&member.state[i].tensor), bytes))
            status = di_fail(DI_ERANGE, "optimizer: the state is larger than 2^63 bytes");
    return status;
}

di_status di_optimizer_estimate(const char *text, const di_tensor *value, int64_t *bytes) {
    if (!text || !value || !bytes)
        return di_fail(DI_EINVAL, "optimizer: estimate: text, value and bytes must not be NULL");
    if (di_tensor_count(value) < 0)
        return di_fail(DI_ESHAPE, "optimizer: estimate: a shape that no tensor can have");
    di_parameter parameter = {.size = sizeof parameter, .name = "parameter", .value = *value};
    di_exec exec = {.size = sizeof exec, .threads = 1};
    di_optimizer_instance *optimizer = NULL;
    di_status status = di_optimizer_create(&exec, text, &optimizer);
    if (!status)
        status = estimate(optimizer, &parameter, bytes);
    di_optimizer_destroy(optimizer);
    return status;
}
