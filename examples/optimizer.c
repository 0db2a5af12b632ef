/* SPDX-License-Identifier: Apache-2.0 */
/* Any optimizer of the library by its name: a net learns to add two numbers modulo 16, and the state's bytes are
 * counted. Usage: optimizer [adamw8bit | adamw | lion8bit | adamw8bit:projector=[galore:rank=8] | …] */
#include <dropin/dropin.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 64, NUMBERS = 16, WIDTH = 64, HIDDEN = 128, STEPS = 400 };

static void check(di_status status) {
    if (status != DI_OK) {
        fprintf(stderr, "optimizer: %s\n", di_message());
        exit(1);
    }
}

int main(int argc, char **argv) {
    di_exec exec;
    check(di_exec_init(&exec));
    di_parameters *list;
    check(di_parameters_create(&exec, DI_F32, &list));
    di_parameter *embed = di_parameters_add(list, "embed", 2, (int64_t[]){NUMBERS, WIDTH}, DI_INIT_NORMAL, 1, 0);
    di_parameter *hidden = di_parameters_add(list, "hidden", 2, (int64_t[]){HIDDEN, 2 * WIDTH}, DI_INIT_NORMAL, 0.1, 0);
    di_parameter *head = di_parameters_add(list, "head", 2, (int64_t[]){NUMBERS, HIDDEN}, DI_INIT_NORMAL, 0.1, 0);
    check(di_parameters_gradients(list));

    /* Two groups of one optimizer: options given with a group go over the optimizer's own. Here `hidden` is large
     * enough for 8-bit state (min_8bit_size); the embedding, most rows of which rest in a step, has no decay. */
    di_optimizer_instance *optimizer;
    check(di_optimizer_create(&exec, argc > 1 ? argv[1] : "adamw8bit", &optimizer));
    check(di_optimizer_add(optimizer, NULL, (di_parameter *[]){hidden, head}, 2));
    check(di_optimizer_add(optimizer, "weight_decay=0", &embed, 1));

    int32_t pair[BATCH][2], sum[BATCH];
    const di_tensor inputs = {pair, DI_I32, 2, {BATCH, 2}, {2, 1}}, targets = {sum, DI_I32, 1, {BATCH}, {1}};
    di_tape *tape;
    check(di_tape_create(&exec, DI_F32, &tape));
    di_var none = {0}, x = di_embedding(tape, di_external(tape, &inputs, false), embed);
    x = di_reshape(tape, x, 2, (int64_t[]){BATCH, 2 * WIDTH});
    x = di_linear(tape, di_relu(tape, di_linear(tape, x, hidden, NULL, none, false)), head, NULL, none, false);
    di_var loss = di_cross_entropy(tape, x, di_external(tape, &targets, false));
    for (uint64_t step = 0; step < STEPS; step++) {
        for (int i = 0; i < BATCH; i++) {
            pair[i][0] = (int32_t)(NUMBERS * di_random_uniform(0, 0, step, (uint64_t)i));
            pair[i][1] = (int32_t)(NUMBERS * di_random_uniform(0, 1, step, (uint64_t)i));
            sum[i] = (pair[i][0] + pair[i][1]) % NUMBERS;
        }
        check(di_forward(tape, &loss, 1, true));
        check(di_backward(tape, &loss, NULL, 1));
        check(di_optimizer_step(&exec, optimizer, 3e-3, 1, 1 /* clips the norm */, NULL));
        if (step % 100 == 0 || step + 1 == STEPS)
            printf("step %3d  loss %.4f\n", (int)step, di_scalar(tape, loss));
    }
    double weights = (double)di_parameters_elements(list, true);
    printf("state: %.3f bytes a parameter\n", (double)di_optimizer_state_bytes(optimizer) / weights);
    di_tape_destroy(tape);
    di_optimizer_destroy(optimizer);
    di_parameters_destroy(list);
}
