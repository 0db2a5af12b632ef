/* SPDX-License-Identifier: Apache-2.0 */
/* Projected parameters in an optimizer: every algorithm, dtype and width of state; resume, threads, edges, errors, and
 * the projected backward in a training loop on the tape. */
#include "core/parallel.h"
#include "optimizer/projector.h"
#include <dropin/nn.h>
#include <dropin/optimizer.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 70 * 40 };

static void refused(di_status status, di_status expected, const char *words) {
    assert_int_equal(status, expected);
    if (!strstr(di_message(), words))
        fail_msg("\"%s\" lacks \"%s\"", di_message(), words);
}

/* ---- one parameter under one optimizer ----------------------------------------------------------------------------
 */

typedef struct rig {
    di_parameter parameter;
    di_optimizer_instance *optimizer;
    di_exec exec;
    di_memory memory;
    _Alignas(64) char value[MOST * 8], grad[MOST * 8];
} rig;

static void put(di_dtype dtype, void *x, int64_t i, double v) {
    uint32_t bits;
    float f = (float)v;
    memcpy(&bits, &f, sizeof bits);
    if (dtype == DI_F64)
        ((double *)x)[i] = v;
    else if (dtype == DI_F32)
        ((float *)x)[i] = f;
    else
        ((uint16_t *)x)[i] = (uint16_t)(bits >> 16);
}

static double get(di_dtype dtype, const void *x, int64_t i) {
    uint32_t bits = dtype == DI_BF16 ? (uint32_t)((const uint16_t *)x)[i] << 16 : 0;
    float f;
    memcpy(&f, &bits, sizeof f);
    return dtype == DI_F64 ? ((const double *)x)[i] : dtype == DI_F32 ? (double)((const float *)x)[i] : (double)f;
}

static double weight(const rig *r, int64_t i) { return get(r->parameter.value.dtype, r->value, i); }

static di_status try_begin(rig *r, const char *text, di_dtype dtype, int32_t rank, const int64_t *shape) {
    memset(r, 0, sizeof *r);
    r->parameter = (di_parameter){.size = sizeof r->parameter, .name = "weight"};
    assert_int_equal(di_tensor_make(&r->parameter.value, r->value, dtype, rank, shape), DI_OK);
    assert_int_equal(di_tensor_make(&r->parameter.grad, r->grad, dtype, rank, shape), DI_OK);
    assert_int_equal(di_memory_init(&r->memory, NULL, DI_MEMORY_POISON | DI_MEMORY_GUARD), DI_OK);
    r->exec = (di_exec){.size = sizeof r->exec, .threads = 2, .level = DI_BASE, .allocator = &r->memory.allocator};
    for (int64_t i = 0; i < di_tensor_count(&r->parameter.value); i++)
        put(dtype, r->value, i, di_random_normal(8, 0, 0, (uint64_t)i));
    di_status status = di_optimizer_create(&r->exec, text, &r->optimizer);
    di_parameter *list[] = {&r->parameter};
    return status ? status : di_optimizer_add(r->optimizer, NULL, list, 1);
}

static void begin(rig *r, const char *text, di_dtype dtype, int64_t m, int64_t n) {
    di_status status = try_begin(r, text, dtype, 2, (const int64_t[]){m, n});
    if (status)
        fail_msg("%s: %s", text, di_message());
}

static void end(rig *r) {
    di_optimizer_destroy(r->optimizer);
    assert_int_equal(r->memory.current, 0);
    assert_int_equal(r->memory.violations, 0);
}

static void fill(rig *r, int64_t step) {
    for (int64_t i = 0; i < di_tensor_count(&r->parameter.value); i++)
        put(r->parameter.grad.dtype, r->grad, i,
            di_random_normal(8, 1, 0, (uint64_t)i) + 0.3 * di_random_normal(8, 2, (uint64_t)step, (uint64_t)i));
    r->parameter.has_grad = true;
}

static void step(rig *r, int64_t number, di_step_report *report) {
    fill(r, number);
    if (di_optimizer_step(&r->exec, r->optimizer, NAN, 1, 0, report))
        fail_msg("step %lld: %s", (long long)number, di_message());
}

static void *state(const rig *r, const char *name, int64_t *bytes) {
    di_state_tensor tensor;
    for (int32_t i = 0; di_optimizer_state(r->optimizer, 0, i, NULL, &tensor); i++)
        if (strcmp(tensor.name, name) == 0) {
            *bytes = di_tensor_bytes(&tensor.tensor);
            return tensor.tensor.data;
        }
    return NULL;
}

/* ---- tests --------------------------------------------------------------------------------------------------------
 */

static const char *const algorithms[] = {"sgd:momentum=0.9",
                                         "adam",
                                         "adamw:weight_decay=0.1",
                                         "rmsprop:centered=on",
                                         "adagrad",
                                         "lion",
                                         "ademamix",
                                         "lamb",
                                         "lars"};

static void every_algorithm_descends_in_the_projection(void **unused) {
    (void)unused;
    static rig r;
    static const di_dtype dtypes[] = {DI_F32, DI_F64, DI_BF16};
    for (size_t a = 0; a < sizeof algorithms / sizeof *algorithms; a++)
        for (int d = 0; d < 3; d++)
            for (int eight = 0; eight < 2; eight++) {
                char text[256];
                snprintf(text, sizeof text, "%s%slr=0.02,%sprojector=[natural_galore:rank=6,gap=3,on_refresh=%s]",
                         algorithms[a], strchr(algorithms[a], ':') ? "," : ":",
                         eight ? "bits=8,min_8bit_size=100,block=64," : "", eight ? "rotate" : "keep");
                begin(&r, text, dtypes[d], 30, 20);
                double before[600], along = 0;
                for (int i = 0; i < 600; i++)
                    before[i] = weight(&r, i);
                for (int64_t s = 0; s < 8; s++)
                    step(&r, s, NULL);
                fill(&r, 0);
                for (int i = 0; i < 600; i++) {
                    assert_true(isfinite(weight(&r, i)));
                    along += (weight(&r, i) - before[i]) * get(dtypes[d], r.grad, i);
                }
                assert_true(along < 0);
                int64_t bytes = 0;
                assert_non_null(state(&r, "basis_v", &bytes));
                assert_int_equal(bytes, 20 * 6 * (dtypes[d] == DI_F64 ? 8 : 4));
                end(&r);
            }
}

/* A basis that is the identity, scale 1: the plain algorithm, to the rounding of the way up. */
static void an_identity_basis_is_the_plain_algorithm(void **unused) {
    (void)unused;
    static rig projected, plain;
    for (size_t a = 0; a < sizeof algorithms / sizeof *algorithms; a++) {
        char text[256];
        const char *sign = strchr(algorithms[a], ':') ? "," : ":";
        snprintf(text, sizeof text, "%s%slr=0.02", algorithms[a], sign);
        begin(&plain, text, DI_F64, 12, 12);
        snprintf(text, sizeof text, "%s%slr=0.02,projector=[galore:rank=12,scale=1]", algorithms[a], sign);
        begin(&projected, text, DI_F64, 12, 12);
        fill(&projected, 0);
        memset(projected.grad, 0, sizeof projected.grad); /* a zero gradient: unit vectors */
        fill(&plain, 0);
        memset(plain.grad, 0, sizeof plain.grad);
        assert_int_equal(di_optimizer_step(&projected.exec, projected.optimizer, NAN, 1, 0, NULL), DI_OK);
        assert_int_equal(di_optimizer_step(&plain.exec, plain.optimizer, NAN, 1, 0, NULL), DI_OK);
        for (int64_t s = 1; s < 9; s++) {
            step(&projected, s, NULL);
            step(&plain, s, NULL);
        }
        for (int i = 0; i < 144; i++)
            assert_true(fabs(weight(&projected, i) - weight(&plain, i)) < 1e-12);
        end(&projected);
        end(&plain);
    }
}

static const char *const variants[] = {
    "galore_adamw:projector=[galore:rank=5,gap=4,side=full]",
    "galore_adamw8bit:min_8bit_size=64,projector=[galore:rank=5,gap=4,on_refresh=rotate,basis_storage=int4]",
    "natural_galore_adamw:projector=[natural_galore:rank=5,gap=4,history=6,history_on_refresh=rotate]",
    "galore_adamw:projector=[galore:rank=5,gap=2,lazy_gap=on,refresh=randomised]",
    "galore_adamw:projector=[galore:rank=5,basis=online,gap=10]",
    "lion:projector=[galore:rank=5,gap=4,basis=random,basis_storage=bf16,stagger=on]",
};

/* Stop in the middle of an interval, carry the tensors over, go on: the bits of the straight run. */
static void resume_has_the_bits_of_the_straight_run(void **unused) {
    (void)unused;
    static rig straight, first, second;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int64_t stop = 3; stop <= 8; stop += 5) {
            begin(&straight, variants[v], DI_F32, 30, 20);
            begin(&first, variants[v], DI_F32, 30, 20);
            begin(&second, variants[v], DI_F32, 30, 20);
            for (int64_t s = 0; s < 20; s++)
                step(&straight, s, NULL);
            for (int64_t s = 0; s < stop; s++)
                step(&first, s, NULL);
            memcpy(second.value, first.value, sizeof first.value);
            di_state_tensor from, to;
            for (int32_t i = 0; di_optimizer_state(first.optimizer, 0, i, NULL, &from); i++) {
                assert_true(di_optimizer_state(second.optimizer, 0, i, NULL, &to));
                assert_string_equal(from.name, to.name);
                assert_int_equal(di_tensor_copy(&to.tensor, &from.tensor), DI_OK);
            }
            di_optimizer_set_steps(second.optimizer, di_optimizer_steps(first.optimizer));
            end(&first);
            for (int64_t s = stop; s < 20; s++)
                step(&second, s, NULL);
            assert_memory_equal(straight.value, second.value, 600 * sizeof(float));
            end(&straight);
            end(&second);
        }
}

static void threads_do_not_change_bits(void **unused) {
    (void)unused;
    static rig r;
    static char kept[MOST * 4];
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int32_t threads = 1; threads <= 7; threads += threads == 1 ? 1 : 5) {
            begin(&r, variants[v], DI_F32, 70, 40);
            r.exec.threads = threads;
            for (int64_t s = 0; s < 9; s++)
                step(&r, s, NULL);
            if (threads == 1)
                memcpy(kept, r.value, sizeof kept);
            assert_memory_equal(kept, r.value, sizeof kept);
            end(&r);
        }
}

static void edges(void **unused) {
    (void)unused;
    static rig r;
    static const int64_t shapes[][4] = {{1, 1, 0, 0}, {1, 17, 0, 0}, {17, 1, 0, 0}, {0, 5, 0, 0}, {9, 9, 0, 0},
                                        {6, 2, 3, 3}, {4, 3, 5, 0},  {12, 0, 0, 0}, {33, 7, 0, 0}};
    static const int32_t ranks[] = {2, 2, 2, 2, 2, 4, 3, 1, 2};
    static const char *const texts[] = {"rank=1", "rank=500", "rank=4,side=reverse_std", "rank=4,side=full,gap=1"};
    for (size_t k = 0; k < 9; k++)
        for (size_t t = 0; t < 4; t++) {
            char text[160];
            snprintf(text, sizeof text, "galore_adamw:weight_decay=0.1,projector=[natural_galore:%s]", texts[t]);
            assert_int_equal(try_begin(&r, text, DI_F32, ranks[k], shapes[k]), DI_OK);
            for (int64_t s = 0; s < 3; s++)
                step(&r, s, NULL);
            for (int64_t i = 0; i < di_tensor_count(&r.parameter.value); i++)
                assert_true(isfinite(weight(&r, i)));
            end(&r);
        }
    begin(&r, "galore_adamw:lr=0,weight_decay=0.5", DI_F32, 12, 8); /* nothing moves */
    static char kept[96 * 4];
    memcpy(kept, r.value, sizeof kept);
    for (int64_t s = 0; s < 3; s++)
        step(&r, s, NULL);
    assert_memory_equal(kept, r.value, sizeof kept);
    end(&r);
}

static void decay_comes_before_or_after_as_asked(void **unused) {
    (void)unused;
    static rig none, other;
    for (int after = 0; after < 2; after++) {
        begin(&none, "adamw:lr=0.5,weight_decay=0,projector=galore", DI_F64, 6, 4);
        begin(&other,
              after ? "adamw:lr=0.5,weight_decay=0.25,decay_order=after,projector=galore"
                    : "adamw:lr=0.5,weight_decay=0.25,projector=galore",
              DI_F64, 6, 4);
        double before[24];
        for (int i = 0; i < 24; i++)
            before[i] = weight(&none, i);
        step(&none, 0, NULL);
        step(&other, 0, NULL);
        for (int i = 0; i < 24; i++) {
            double moved = weight(&none, i) - before[i];
            double expected = after ? 0.875 * weight(&none, i) : 0.875 * before[i] + moved;
            assert_true(fabs(weight(&other, i) - expected) < 1e-14);
        }
        end(&none);
        end(&other);
    }
}

static void bad_gradients_meet_the_policy(void **unused) {
    (void)unused;
    static rig r;
    static const char *const texts[] = {"nonfinite=propagate,", "nonfinite=skip,", "nonfinite=skip_tensor,",
                                        "nonfinite=error,"};
    for (int t = 0; t < 4; t++)
        for (int due = 0; due < 2; due++) {
            char text[160];
            snprintf(text, sizeof text, "galore_adamw:%sprojector=[galore:rank=3,gap=2]", texts[t]);
            begin(&r, text, DI_F32, 12, 8);
            for (int64_t s = 0; s < (due ? 2 : 1); s++)
                step(&r, s, NULL);
            char kept[96 * 4];
            memcpy(kept, r.value, sizeof kept);
            fill(&r, 5);
            ((float *)r.grad)[7] = NAN;
            di_step_report report;
            di_status status = di_optimizer_step(&r.exec, r.optimizer, NAN, 1, 0, &report);
            if (t == 3)
                refused(status, DI_ERANGE, "weight");
            else
                assert_int_equal(status, DI_OK);
            bool spreads = t == 0 && !due; /* where a basis is due the step is left out in any case */
            assert_int_equal(memcmp(kept, r.value, sizeof kept) != 0, spreads);
            if (t < 3 && !spreads) {
                assert_true(report.updated == 0 && report.skipped == 1 && report.nonfinite >= 1);
                step(&r, 6, &report);
                assert_int_equal(report.updated, 1);
                for (int i = 0; i < 96; i++)
                    assert_true(isfinite(weight(&r, i)));
            }
            end(&r);
        }
}

static void wrong_options_are_refused(void **unused) {
    (void)unused;
    static rig r;
    static const struct {
        const char *text, *words;
        di_status status;
    } cases[] = {
        {"adamw:projector=galor", "galore", DI_ENAME},
        {"adamw:projector=[galore:rank=0]", "rank=0", DI_ERANGE},
        {"adam:weight_decay=0.1,projector=galore", "weight_decay=0.1", DI_EINVAL},
        {"sgd:weight_decay=0.1,projector=galore", "decoupled", DI_EINVAL},
        {"galore_adamw:amsgrad=on", "amsgrad", DI_ENAME},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        refused(try_begin(&r, cases[i].text, DI_F32, 2, (const int64_t[]){12, 8}), cases[i].status, cases[i].words);
        end(&r);
    }
    begin(&r, "galore_adamw:projector=[galore:rank=3]", DI_F32, 12, 8);
    int64_t places[96] = {0};
    refused(di_optimizer_remap(r.optimizer, &r.parameter, places, 96), DI_EUNSUPPORTED, "projected");
    step(&r, 0, NULL);
    assert_int_equal(di_optimizer_change(r.optimizer, 0, "projector=[galore:rank=3,gap=1]"), DI_OK);
    step(&r, 1, NULL);
    int64_t bytes;
    assert_int_equal(*(int64_t *)state(&r, "last_refresh", &bytes), 2);
    refused(di_optimizer_change(r.optimizer, 0, "projector=[galore:rank=4]"), DI_ESTATE, "weight");
    refused(di_optimizer_change(r.optimizer, 0, "projector=none"), DI_ESTATE, "weight");
    refused(di_optimizer_change(r.optimizer, 0, "projector=[galore:rank=3,backward=projected]"), DI_ESTATE, "weight");
    *(int64_t *)state(&r, "last_refresh", &bytes) = 77;
    fill(&r, 2);
    refused(di_optimizer_step(&r.exec, r.optimizer, NAN, 1, 0, NULL), DI_EFORMAT, "last_refresh=77");
    end(&r);
}

static void state_is_as_large_as_was_estimated(void **unused) {
    (void)unused;
    static rig r;
    int64_t bytes;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int wide = 0; wide < 2; wide++) {
            begin(&r, variants[v], wide ? DI_F64 : DI_F32, 30, 20);
            assert_int_equal(di_optimizer_estimate(variants[v], &r.parameter.value, &bytes), DI_OK);
            assert_int_equal(bytes, di_optimizer_state_bytes(r.optimizer));
            end(&r);
        }
    di_tensor large; /* numbers of the 1.1B model's matrices: Nr + 2 Mr of GaLore, 2 MN of AdamW; h more of Natural */
    assert_int_equal(di_tensor_make(&large, NULL, DI_F32, 2, (const int64_t[]){5461, 2048}), DI_OK);
    assert_int_equal(di_optimizer_estimate("adamw", &large, &bytes), DI_OK);
    assert_int_equal(bytes, 4 * 2 * INT64_C(5461) * 2048 + 8);
    assert_int_equal(di_optimizer_estimate("galore_adamw:projector=[galore:rank=512]", &large, &bytes), DI_OK);
    assert_int_equal(bytes, 4 * (2048 + 2 * INT64_C(5461)) * 512 + 3 * 8);
    assert_int_equal(di_optimizer_estimate("adamw:projector=[natural_galore:rank=512,history=1]", &large, &bytes),
                     DI_OK);
    assert_int_equal(bytes, 4 * (2048 + 2 * INT64_C(5461)) * 512 + 3 * 8);
    assert_int_equal(di_optimizer_estimate("adamw:projector=[natural_galore:rank=512,history=4]", &large, &bytes),
                     DI_OK);
    assert_int_equal(bytes, 4 * (2048 + 6 * INT64_C(5461)) * 512 + 5 * 8 + 16 * 8);
    refused(di_optimizer_estimate("adamw:projector=[galore:rank=-1]", &large, &bytes), DI_ERANGE, "rank");
    refused(di_optimizer_estimate("adamv", &large, &bytes), DI_ENAME, "adamw");
    refused(di_optimizer_estimate(NULL, &large, &bytes), DI_EINVAL, "NULL");
    large.shape[0] = -1;
    refused(di_optimizer_estimate("adamw", &large, &bytes), DI_ESHAPE, "shape");
}

static void every_allocation_may_fail(void **unused) {
    (void)unused;
    static rig r;
    int64_t all = 1;
    for (int64_t at = 0; at < all; at++) {
        begin(&r, variants[2], DI_F32, 12, 8);
        end(&r);
        memset(&r, 0, sizeof r);
        begin(&r, "natural_galore_adamw:projector=[natural_galore:rank=3,gap=2]", DI_F32, 12, 8);
        int64_t before = r.memory.allocations;
        r.memory.fail_at = before + at;
        fill(&r, 0);
        di_status status = di_optimizer_step(&r.exec, r.optimizer, NAN, 1, 0, NULL);
        all = r.memory.allocations - before;
        assert_true(status == DI_OK || status == DI_ENOMEM);
        assert_true(at >= all || status == DI_ENOMEM);
        r.memory.fail_at = -1;
        fill(&r, 0);
        assert_int_equal(di_optimizer_step(&r.exec, r.optimizer, NAN, 1, 0, NULL), DI_OK);
        end(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_algorithm_descends_in_the_projection),
        cmocka_unit_test(an_identity_basis_is_the_plain_algorithm),
        cmocka_unit_test(resume_has_the_bits_of_the_straight_run),
        cmocka_unit_test(threads_do_not_change_bits),
        cmocka_unit_test(edges),
        cmocka_unit_test(decay_comes_before_or_after_as_asked),
        cmocka_unit_test(bad_gradients_meet_the_policy),
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(state_is_as_large_as_was_estimated),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
