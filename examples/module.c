/* SPDX-License-Identifier: Apache-2.0 */
/* Depth 2: training on a tape. At each place of a sequence the net must tell the largest symbol so far, which it can
 * only know by attention. Usage: module [softmax | sigmoid | sigmoid:bias=0 | …] */
#include <dropin/dropin.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 32, LENGTH = 8, SYMBOLS = 8, WIDTH = 32, HEADS = 2, DIM = WIDTH / HEADS, STEPS = 300 };

static void check(di_status status) {
    if (status != DI_OK) {
        fprintf(stderr, "module: %s\n", di_message());
        exit(1);
    }
}

int main(int argc, char **argv) {
    di_exec exec; /* threads and kernels; nothing is global */
    check(di_exec_init(&exec));
    di_parameters *list;
    check(di_parameters_create(&exec, DI_F32, &list));
    di_parameter *embed = di_parameters_add(list, "embed", 2, (int64_t[]){SYMBOLS, WIDTH}, DI_INIT_NORMAL, 1, 0);
    di_parameter *qkv = di_parameters_add(list, "qkv", 2, (int64_t[]){3 * WIDTH, WIDTH}, DI_INIT_NORMAL, 0.2, 0);
    di_parameter *head = di_parameters_add(list, "head", 2, (int64_t[]){SYMBOLS, WIDTH}, DI_INIT_NORMAL, 0.2, 0);
    check(di_parameters_gradients(list));
    di_attention_module *attention;
    const di_attention_config config = {sizeof config, HEADS, HEADS, DIM, DIM, LENGTH};
    check(di_attention_create(&exec, argc > 1 ? argv[1] : "sigmoid", DI_F32, &config, &attention));
    di_optimizer_instance *optimizer;
    check(di_optimizer_create(&exec, "adamw:lr=0.01", &optimizer));
    check(di_optimizer_add(optimizer, NULL, (di_parameter *[]){embed, qkv, head}, 3));

    /* Recorded once, on memory of ours; every step changes what the memory holds and runs the same tape. */
    int32_t symbols[BATCH * LENGTH], largest[BATCH * LENGTH];
    const di_tensor inputs = {symbols, DI_I32, 2, {BATCH, LENGTH}, {LENGTH, 1}};
    const di_tensor targets = {largest, DI_I32, 2, {BATCH, LENGTH}, {LENGTH, 1}};
    di_tape *tape;
    check(di_tape_create(&exec, DI_F32, &tape));
    di_var none = {0}, x = di_embedding(tape, di_external(tape, &inputs, false), embed);
    x = di_reshape(tape, di_linear(tape, x, qkv, NULL, none, false), 4, (int64_t[]){BATCH, LENGTH, 3 * HEADS, DIM});
    x = di_attend_packed(tape, attention, x, -1, 0 /* causal */, none, none);
    x = di_linear(tape, di_reshape(tape, x, 3, (int64_t[]){BATCH, LENGTH, WIDTH}), head, NULL, none, false);
    di_var loss = di_cross_entropy(tape, x, di_external(tape, &targets, false));
    for (uint64_t step = 0; step < STEPS; step++) {
        for (int i = 0; i < BATCH * LENGTH; i++) {
            symbols[i] = (int32_t)(SYMBOLS * di_random_uniform(0, 0, step, (uint64_t)i));
            largest[i] = i % LENGTH && largest[i - 1] > symbols[i] ? largest[i - 1] : symbols[i];
        }
        check(di_forward(tape, &loss, 1, true)); /* the first error of all those calls is told here */
        check(di_backward(tape, &loss, NULL, 1));
        check(di_optimizer_step(&exec, optimizer, 0.01, 1, 1 /* clips the norm */, NULL));
        if (step % 50 == 0 || step + 1 == STEPS)
            printf("step %3d  loss %.4f\n", (int)step, di_scalar(tape, loss));
    }
    di_tape_destroy(tape);
    di_optimizer_destroy(optimizer);
    di_attention_destroy(attention);
    di_parameters_destroy(list);
}
