/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of the slot `attention`: every part of the list, and one that the list does not know, against brute
 * force in double on every example, at every level. */
#include "tests/support/attention_reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void run_example(const attention_method *method, di_dtype dtype, const char *text) {
    const di_attention *record = method->record;
    attention_data data;
    if (!attention_make(&data, record, dtype, text))
        return;
    attention_expected expected;
    attention_expect(&data, method, &expected);
    for (di_level level = DI_PLAIN; level < DI_LEVELS; level++) {
        if (!di_level_supported(level))
            continue;
        char label[400];
        snprintf(label, sizeof label, "%s %s %s: %s", record->part.name, di_dtype_name(dtype), di_level_name(level),
                 text);
        data.exec.level = level;
        if (attention_forward(&data) != DI_OK)
            fail_msg("%s: forward: %s", label, di_message());
        attention_check_forward(&data, &expected, label);
        if (attention_backward(&data) != DI_OK)
            fail_msg("%s: backward: %s", label, di_message());
        attention_check_backward(&data, &expected, label);
    }
    attention_expected_drop(&expected);
    attention_drop(&data);
}

static void run_examples(di_dtype dtype) {
    for (int64_t i = 0; attention_record(i); i++) {
        const attention_method *method = attention_method_of(attention_record(i));
        const char *const *own = method->record->part.examples;
        for (int64_t e = 0; attention_examples[e]; e++)
            run_example(method, dtype, attention_examples[e]);
        for (int64_t e = 0; own && own[e]; e++)
            run_example(method, dtype, own[e]);
    }
}

static void test_examples_f32(void **state) {
    (void)state;
    run_examples(DI_F32);
}

static void test_examples_f64(void **state) {
    (void)state;
    run_examples(DI_F64);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_examples_f64), cmocka_unit_test(test_examples_f32)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
