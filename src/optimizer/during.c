/* SPDX-License-Identifier: Apache-2.0 */
/* Updates during backward: each parameter has its step, and gives its gradient's memory back, while the tape goes on.
 */
#include "optimizer/instance.h"
#include <math.h>

static di_member *find(di_optimizer_instance *optimizer, const di_parameter *parameter) {
    for (int64_t i = 0; i < optimizer->members; i++)
        if (optimizer->member[i]->update.parameter == parameter)
            return optimizer->member[i];
    return NULL;
}

void di_member_take_back(di_member *member) {
    if (!member->lent)
        return;
    di_tensor *grad = &member->update.parameter->grad;
    if (grad->data == member->lent)
        grad->data = NULL;
    di_release(member->exec, member->lent, (size_t)di_tensor_bytes(&member->update.parameter->value));
    member->lent = NULL;
}

static di_status lend(void *user, di_parameter *parameter) {
    di_optimizer_instance *optimizer = user;
    di_member *member = find(optimizer, parameter);
    if (!member) /* not ours: the tape says what is missing */
        return DI_OK;
    di_member_take_back(member);
    di_status status =
        di_allocate(&optimizer->exec, (size_t)di_tensor_bytes(&parameter->value), "a gradient", &member->lent);
    parameter->grad = parameter->value;
    parameter->grad.data = member->lent;
    parameter->has_grad = false;
    return status;
}

static di_status step(void *user, di_parameter *parameter) {
    di_optimizer_instance *optimizer = user;
    di_member *member = find(optimizer, parameter);
    if (!member)
        return DI_OK;
    optimizer->only = member;
    di_status status =
        di_optimizer_step(&optimizer->during, optimizer, optimizer->during_lr, optimizer->during_scale, 0, NULL);
    optimizer->only = NULL;
    di_member_take_back(member);
    return status;
}

di_status di_optimizer_during_backward(const di_exec *exec, di_optimizer_instance *optimizer, di_tape *tape, double lr,
                                       double grad_scale, double max_norm) {
    if (!exec || !optimizer || !tape)
        return di_fail(DI_EINVAL, "optimizer: exec, optimizer and tape must not be NULL");
    if (!(isnan(lr) || (isfinite(lr) && lr >= 0)) || !isfinite(grad_scale))
        return di_fail(DI_ERANGE,
                       "optimizer: lr=%g, grad_scale=%g; must be at least 0 and finite, or lr NaN for the "
                       "options' own",
                       lr, grad_scale);
    if (max_norm != 0)
        return di_fail(DI_EUNSUPPORTED,
                       "optimizer: max_norm=%g during backward; must be 0: the global norm is known only when all "
                       "gradients are",
                       max_norm);
    optimizer->during = *exec;
    optimizer->during_lr = lr;
    optimizer->during_scale = grad_scale;
    di_tape_on_gradient(tape, lend, step, optimizer);
    return DI_OK;
}
