/* SPDX-License-Identifier: Apache-2.0 */
/* The GPT: its options, its parameters, its gradient, its rows' independence. Decoding is in test_gpt_decoder.c. */
#include "models/gpt.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { VOCABULARY = 7 };

static di_exec make_exec(void) {
    di_exec exec;
    assert_int_equal(di_exec_init(&exec), DI_OK);
    exec.threads = 2;
    exec.seed = 5;
    return exec;
}

static gpt_options make_options(const char *text) {
    gpt_options options;
    if (di_options_parse(&di_gpt_part, text, &options) != DI_OK)
        fail_msg("%s: %s", text, di_message());
    return options;
}

static di_gpt *make_gpt(const di_exec *exec, di_dtype dtype, const char *text, const char *attention) {
    const gpt_options options = make_options(text);
    di_gpt *gpt;
    if (di_gpt_create(exec, dtype, &options, NULL, attention, VOCABULARY, &gpt) != DI_OK)
        fail_msg("%s, %s: %s", text, attention, di_message());
    return gpt;
}

static void assert_message(const char *part) {
    if (!strstr(di_message(), part))
        fail_msg("\"%s\" is not in \"%s\"", part, di_message());
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static void test_defaults_are_the_claims_model(void **state) {
    (void)state;
    gpt_options o = make_options("");
    assert_int_equal(o.layers, 2);
    assert_int_equal(o.width, 64);
    assert_int_equal(o.heads, 4);
    assert_int_equal(o.context, 128);
    assert_true(o.rope && !o.tied && !o.bias && !o.qk_norm && !o.hybrid_norm);
    assert_true(o.init == 0.02 && o.layer_scale == 0 && o.dropout == 0 && o.window == -1);
    di_exec exec = make_exec();
    di_gpt *gpt = make_gpt(&exec, DI_F32, "", "softmax");
    assert_int_equal(di_gpt_options(gpt)->kv_heads, 4);
    assert_int_equal(di_gpt_options(gpt)->mlp, 256);
    assert_int_equal(di_gpt_vocabulary(gpt), VOCABULARY);
    di_gpt_destroy(gpt);
}

static void refused(const char *text, const char *message) {
    gpt_options options;
    if (di_options_parse(&di_gpt_part, text, &options) == DI_OK)
        fail_msg("%s was taken", text);
    assert_message(message);
}

static void test_options_that_disagree_are_named(void **state) {
    (void)state;
    refused("width=10,heads=4", "gpt: width=10 is not a multiple of heads=4");
    refused("heads=4,kv_heads=3", "gpt: heads=4 is not a multiple of kv_heads=3");
    refused("width=12,heads=4", "head dimension of 3; rope=on wants an even one");
    refused("width=1026,heads=2", "head dimension of 513; must be at most 512");
    refused("rope=off,rope_layout=halves", "rope_layout=halves has no meaning with rope=off");
    refused("dropout=1", "dropout");
    refused("layers=0", "layers");
    assert_int_equal(make_options("width=12,heads=4,rope=off").width, 12);
}

static void test_attention_is_named_when_it_does_not_fit(void **state) {
    (void)state;
    di_exec exec = make_exec();
    const gpt_options options = make_options("");
    di_gpt *gpt;
    assert_int_equal(di_gpt_create(&exec, DI_F32, &options, NULL, "sigmod", VOCABULARY, &gpt), DI_ENAME);
    assert_message("sigmoid");
    assert_null(gpt);
    assert_int_equal(di_gpt_create(&exec, DI_F32, &options, NULL, "sigmoid:bias=abc", VOCABULARY, &gpt), DI_EINVAL);
    assert_int_equal(di_gpt_create(&exec, DI_BF16, &options, NULL, "softmax", VOCABULARY, &gpt), DI_EDTYPE);
    assert_int_equal(di_gpt_create(&exec, DI_F32, &options, NULL, "softmax", 0, &gpt), DI_ERANGE);
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */

static void test_parameters_follow_the_formula(void **state) {
    (void)state;
    static const char *const texts[] = {"", "layers=3,width=24,heads=6,kv_heads=2,mlp=40", "rope=off,tied=on",
                                        "norm=rms,bias=on",
                                        "qk_norm=on,hybrid_norm=on,layer_scale=0.1,layers=1,width=16,heads=2"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        di_exec exec = make_exec();
        di_gpt *gpt = make_gpt(&exec, DI_F32, texts[i], "softmax");
        const gpt_options *o = di_gpt_options(gpt);
        int64_t dim = o->width / o->heads, qkv = (o->heads + 2 * o->kv_heads) * dim;
        int64_t norm = o->norm == GPT_RMS_NORM ? o->width : 2 * o->width;
        int64_t block = 2 * norm + qkv * o->width + o->width * o->width + 2 * o->mlp * o->width;
        if (o->bias)
            block += qkv + o->width + o->mlp + o->width;
        if (o->qk_norm)
            block += 4 * dim;
        if (o->hybrid_norm)
            block += norm;
        if (o->layer_scale > 0)
            block += 2 * o->width;
        int64_t all = VOCABULARY * o->width * (o->tied ? 1 : 2) + (o->rope ? 0 : o->context * o->width) +
                      o->layers * block + norm;
        assert_int_equal(di_parameters_elements(di_gpt_parameters(gpt), true), all);
        di_gpt_destroy(gpt);
    }
}

static void test_names_and_decay(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool decays;
    } rows[] = {{"embedding.weight", true},
                {"positions.weight", true},
                {"blocks.0.norm1.gain", false},
                {"blocks.1.norm1.bias", false},
                {"blocks.0.attention.qkv.weight", true},
                {"blocks.0.attention.qkv.bias", false},
                {"blocks.0.attention.bias", false},
                {"blocks.1.attention.q_norm.gain", false},
                {"blocks.0.attention.norm.gain", false},
                {"blocks.0.scale1.gain", false},
                {"blocks.0.mlp.up.weight", true},
                {"norm.gain", false},
                {"head.weight", true}};
    di_exec exec = make_exec();
    di_gpt *gpt =
        make_gpt(&exec, DI_F32, "rope=off,bias=on,qk_norm=on,hybrid_norm=on,layer_scale=1", "sigmoid:train_bias=on");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const di_parameter *parameter = di_parameters_find(di_gpt_parameters(gpt), rows[i].name);
        if (!parameter)
            fail_msg("no parameter %s", rows[i].name);
        assert_int_equal(!(parameter->flags & DI_PARAMETER_NO_DECAY), rows[i].decays);
    }
    di_gpt_destroy(gpt);
}

/* Two models that differ in their attention start from the same weights: comparisons are paired. */
static void test_models_share_their_initial_weights(void **state) {
    (void)state;
    di_exec exec = make_exec();
    di_gpt *a = make_gpt(&exec, DI_F32, "rope=off", "softmax");
    di_gpt *b = make_gpt(&exec, DI_F32, "rope=off", "sigmoid:train_bias=on");
    di_parameters *list = di_gpt_parameters(a);
    double spread = 0;
    for (int64_t i = 0; i < di_parameters_count(list); i++) {
        const di_parameter *one = di_parameters_at(list, i);
        const di_parameter *other = di_parameters_find(di_gpt_parameters(b), one->name);
        assert_non_null(other);
        assert_memory_equal(one->value.data, other->value.data, (size_t)di_tensor_bytes(&one->value));
        for (int64_t k = 0; k < di_tensor_count(&one->value); k++)
            if (one->value.rank == 2)
                spread = fmax(spread, fabs((double)((const float *)one->value.data)[k]));
    }
    assert_true(spread > 0.03 && spread <= 0.04); /* cut at two standard deviations of 0.02 */
    di_gpt_destroy(a);
    di_gpt_destroy(b);
    exec.seed++;
    di_gpt *c = make_gpt(&exec, DI_F32, "", "softmax"), *d;
    exec.seed++;
    d = make_gpt(&exec, DI_F32, "", "softmax");
    const di_parameter *x = di_parameters_find(di_gpt_parameters(c), "head.weight");
    const di_parameter *y = di_parameters_find(di_gpt_parameters(d), "head.weight");
    assert_memory_not_equal(x->value.data, y->value.data, (size_t)di_tensor_bytes(&x->value));
    di_gpt_destroy(c);
    di_gpt_destroy(d);
}

/* ---- the gradient of the whole model -------------------------------------------------------------------------------
 */

enum { BATCH = 2, LENGTH = 5 };

/* A model on a tape, with its inputs. */
typedef struct bench {
    di_exec exec;
    di_gpt *gpt;
    di_tape *tape;
    int32_t tokens[BATCH * LENGTH], targets[BATCH * LENGTH];
    int64_t samples[BATCH];
    di_var logits, loss;
} bench;

static void set_up(bench *b, di_dtype dtype, const char *options, const char *attention) {
    b->exec = make_exec();
    b->gpt = make_gpt(&b->exec, dtype, options, attention);
    for (int i = 0; i < BATCH * LENGTH; i++) {
        b->tokens[i] = (i * 5 + i / 3) % VOCABULARY;
        b->targets[i] = i == 4 ? -1 : (i * 3 + 1) % VOCABULARY;
    }
    for (int i = 0; i < BATCH; i++)
        b->samples[i] = 100 + i;
    di_tensor tokens, targets, samples;
    const int64_t shape[] = {BATCH, LENGTH};
    assert_int_equal(di_tensor_make(&tokens, b->tokens, DI_I32, 2, shape), DI_OK);
    assert_int_equal(di_tensor_make(&targets, b->targets, DI_I32, 2, shape), DI_OK);
    assert_int_equal(di_tensor_make(&samples, b->samples, DI_I64, 1, shape), DI_OK);
    assert_int_equal(di_tape_create(&b->exec, dtype, &b->tape), DI_OK);
    b->logits =
        di_gpt_logits(b->gpt, b->tape, di_external(b->tape, &tokens, false), di_external(b->tape, &samples, false));
    b->loss = di_cross_entropy(b->tape, b->logits, di_external(b->tape, &targets, false));
    if (di_tape_status(b->tape) != DI_OK)
        fail_msg("%s", di_message());
    di_tape_seed(b->tape, 9, 3, true);
}

static void tear_down(bench *b) {
    di_tape_destroy(b->tape);
    di_gpt_destroy(b->gpt);
}

static double run_loss(bench *b, bool backward) {
    if (di_forward(b->tape, &b->loss, 1, true) != DI_OK)
        fail_msg("%s", di_message());
    if (backward && di_backward(b->tape, &b->loss, NULL, 1) != DI_OK)
        fail_msg("%s", di_message());
    return di_scalar(b->tape, b->loss);
}

/* dloss/d*value by a central difference. */
static double slope(bench *b, double *value, double h) {
    const double at = *value;
    *value = at + h;
    double above = run_loss(b, false);
    *value = at - h;
    double below = run_loss(b, false);
    *value = at;
    return (above - below) / (2 * h);
}

static void check_gradient(const char *options, const char *attention) {
    bench b;
    set_up(&b, DI_F64, options, attention);
    di_parameters *list = di_gpt_parameters(b.gpt);
    assert_int_equal(di_parameters_gradients(list), DI_OK);
    double loss = run_loss(&b, true), most = 0;
    assert_true(isfinite(loss) && loss > 0);
    for (int64_t i = 0; i < di_parameters_count(list); i++) {
        di_parameter *parameter = di_parameters_at(list, i);
        if (parameter->flags & DI_PARAMETER_FROZEN)
            continue;
        assert_true(parameter->has_grad);
        double *value = parameter->value.data, *grad = parameter->grad.data;
        int64_t count = di_tensor_count(&parameter->value), stride = count > 8 ? count / 8 : 1;
        for (int64_t k = 0; k < count; k += stride) {
            double numeric = (4 * slope(&b, &value[k], 1e-5) - slope(&b, &value[k], 2e-5)) / 3; /* error of order 4 */
            if (!(fabs(numeric - grad[k]) <= 1e-8 + 1e-6 * fabs(numeric)))
                fail_msg("%s, %s: %s[%lld] %.12g, by differences %.12g", options, attention, parameter->name,
                         (long long)k, grad[k], numeric);
            most = fmax(most, fabs(grad[k]));
        }
    }
    assert_true(most > 1e-3); /* something was compared */
    tear_down(&b);
}

static void test_gradient_of_the_whole_model(void **state) {
    (void)state;
    const char *small = "width=8,heads=4,kv_heads=2,context=6,mlp=12,init=0.4";
    char text[256];
    static const char *const more[] = {"", ",qk_norm=on,hybrid_norm=on,layer_scale=0.7,bias=on,dropout=0.2",
                                       ",rope=off,tied=on,norm=rms", ",window=2,rope_layout=halves"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        snprintf(text, sizeof text, "%s%s", small, more[i]);
        check_gradient(text, "softmax");
        check_gradient(text, "sigmoid:train_bias=on");
    }
}

/* ---- rows keep to themselves
 * ------------------------------------------------------------------------------------------ */

static void test_rows_move_with_a_permutation(void **state) {
    (void)state;
    static const char *const attentions[] = {"softmax:dropout=0.3", "sigmoid:dropout=0.3"};
    for (int a = 0; a < 2; a++) {
        bench b;
        set_up(&b, DI_F32, "width=16,heads=2,context=6,init=0.3,dropout=0.3,rope=off", attentions[a]);
        float before[BATCH * LENGTH * VOCABULARY], after[BATCH * LENGTH * VOCABULARY];
        enum { ROW = LENGTH * VOCABULARY };
        di_keep(b.tape, b.logits);
        run_loss(&b, false);
        memcpy(before, di_value(b.tape, b.logits).data, sizeof before);
        for (int t = 0; t < LENGTH; t++) {
            int32_t token = b.tokens[t];
            b.tokens[t] = b.tokens[LENGTH + t];
            b.tokens[LENGTH + t] = token;
        }
        b.samples[0] = 101;
        b.samples[1] = 100;
        run_loss(&b, false);
        memcpy(after, di_value(b.tape, b.logits).data, sizeof after);
        assert_memory_equal(before, after + ROW, ROW * sizeof(float));
        assert_memory_equal(before + ROW, after, ROW * sizeof(float));
        /* And dropout was on: another step gives other values, no training gives none. */
        di_tape_seed(b.tape, 9, 4, true);
        run_loss(&b, false);
        assert_memory_not_equal(after, di_value(b.tape, b.logits).data, sizeof after);
        tear_down(&b);
    }
}

static void test_bits_do_not_depend_on_threads(void **state) {
    (void)state;
    float values[3][BATCH * LENGTH * VOCABULARY];
    static const int32_t threads[] = {1, 2, 7};
    for (int i = 0; i < 3; i++) {
        bench b;
        set_up(&b, DI_F32, "", "sigmoid");
        tear_down(&b);
        b.exec.threads = threads[i];
        b.gpt = make_gpt(&b.exec, DI_F32, "init=0.3", "sigmoid");
        di_tensor tokens;
        assert_int_equal(di_tensor_make(&tokens, b.tokens, DI_I32, 2, (const int64_t[]){BATCH, LENGTH}), DI_OK);
        assert_int_equal(di_tape_create(&b.exec, DI_F32, &b.tape), DI_OK);
        b.logits = di_gpt_logits(b.gpt, b.tape, di_external(b.tape, &tokens, false), (di_var){0});
        assert_int_equal(di_forward(b.tape, &b.logits, 1, false), DI_OK);
        memcpy(values[i], di_value(b.tape, b.logits).data, sizeof values[i]);
        tear_down(&b);
    }
    assert_memory_equal(values[0], values[1], sizeof values[0]);
    assert_memory_equal(values[0], values[2], sizeof values[0]);
}

static void test_tokens_that_do_not_fit_are_named(void **state) {
    (void)state;
    di_exec exec = make_exec();
    di_gpt *gpt = make_gpt(&exec, DI_F32, "context=4", "softmax");
    int32_t ids[8] = {0};
    di_tensor tokens;
    di_tape *tape;
    assert_int_equal(di_tensor_make(&tokens, ids, DI_I32, 2, (const int64_t[]){1, 5}), DI_OK);
    assert_int_equal(di_tape_create(&exec, DI_F32, &tape), DI_OK);
    assert_int_equal(di_gpt_logits(gpt, tape, di_external(tape, &tokens, false), (di_var){0}).id, 0);
    assert_int_equal(di_tape_status(tape), DI_ERANGE);
    assert_message("gpt: length=5; must be at most context=4");
    di_tape_destroy(tape);

    assert_int_equal(di_tensor_make(&tokens, ids, DI_I32, 1, (const int64_t[]){4}), DI_OK);
    assert_int_equal(di_tape_create(&exec, DI_F32, &tape), DI_OK);
    assert_int_equal(di_gpt_logits(gpt, tape, di_external(tape, &tokens, false), (di_var){0}).id, 0);
    assert_int_equal(di_tape_status(tape), DI_ESHAPE);
    assert_message("tokens are [4] i32");
    di_tape_destroy(tape);
    di_gpt_destroy(gpt);
}

static void test_every_allocation_may_fail(void **state) {
    (void)state;
    const gpt_options options = make_options("qk_norm=on,width=16,heads=2,layers=1");
    di_memory memory;
    int64_t failed = 0;
    for (int64_t at = 0;; at++) {
        assert_int_equal(di_memory_init(&memory, NULL, DI_MEMORY_GUARD), DI_OK);
        memory.fail_at = at;
        di_exec exec = make_exec();
        exec.allocator = &memory.allocator;
        di_gpt *gpt;
        di_status status = di_gpt_create(&exec, DI_F32, &options, NULL, "sigmoid:train_bias=on", VOCABULARY, &gpt);
        if (status == DI_OK) {
            di_gpt_destroy(gpt);
            assert_int_equal(memory.current, 0);
            break;
        }
        assert_int_equal(status, DI_ENOMEM);
        assert_null(gpt);
        assert_int_equal(memory.current, 0);
        assert_int_equal(memory.violations, 0);
        failed++;
    }
    assert_true(failed > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults_are_the_claims_model),
                                       cmocka_unit_test(test_options_that_disagree_are_named),
                                       cmocka_unit_test(test_attention_is_named_when_it_does_not_fit),
                                       cmocka_unit_test(test_parameters_follow_the_formula),
                                       cmocka_unit_test(test_names_and_decay),
                                       cmocka_unit_test(test_models_share_their_initial_weights),
                                       cmocka_unit_test(test_gradient_of_the_whole_model),
                                       cmocka_unit_test(test_rows_move_with_a_permutation),
                                       cmocka_unit_test(test_bits_do_not_depend_on_threads),
                                       cmocka_unit_test(test_tokens_that_do_not_fit_are_named),
                                       cmocka_unit_test(test_every_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
