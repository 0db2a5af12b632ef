/* SPDX-License-Identifier: Apache-2.0 */
/* Driven by the option rows of every part: each option changes what comes out, or is refused. And what comes out of
 * printing the options parses to the same. */
#include "tests/support/attention_reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* What a part gives with some options: training outputs on fixed inputs, and a module's parameters with their values.
 * False where the options are refused. */
static bool outcome(const di_attention *record, const char *options, uint64_t *hash) {
    attention_data data;
    char text[512];
    snprintf(text, sizeof text, "q=24,k=24,dim=8,train=on,causal=on%s%s%s", *options ? ",options=[" : "", options,
             *options ? "]" : "");
    int64_t parsed[DI_OPTIONS_BYTES / sizeof(int64_t)];
    if (di_options_parse(&record->part, options, parsed) != DI_OK)
        return false;
    assert_true(attention_make(&data, record, DI_F64, text));
    memset(data.io.parameters, 0, sizeof data.io.parameters);
    assert_int_equal(attention_forward(&data), DI_OK);
    uint64_t sum = 14695981039346656037u;
    const uint8_t *out = data.io.out.data;
    for (int64_t i = 0; i < data.shape.batch * 24 * data.shape.heads * 8 * (int64_t)sizeof(double); i++)
        sum = (sum ^ out[i]) * 1099511628211u;
    const di_attention_config config = {sizeof config, 2, 2, 8, 8, 24};
    di_attention_module *module;
    di_parameter *list[DI_ATTENTION_PARAMETERS];
    assert_int_equal(di_attention_create_record(&data.exec, record, options, DI_F64, &config, &module), DI_OK);
    int64_t count = di_attention_module_parameters(module, list, DI_ATTENTION_PARAMETERS);
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *values = list[i]->value.data;
        sum = (sum ^ list[i]->flags ^ (uint64_t)list[i]->name[1] << 32) * 1099511628211u;
        for (int64_t byte = 0; byte < di_tensor_bytes(&list[i]->value); byte++)
            sum = (sum ^ values[byte]) * 1099511628211u;
    }
    di_attention_destroy(module);
    attention_drop(&data);
    *hash = sum;
    return true;
}

/* Values other than the default, NULL-ended. */
static int32_t other_values(const di_option *row, char values[4][64]) {
    int32_t count = 0;
    switch (row->type) {
    case DI_BOOL:
        strcpy(values[count++], strcmp(row->value, "on") == 0 ? "off" : "on");
        break;
    case DI_NUMBER:
        strcpy(values[count++], "0.375");
        if (strcmp(row->value, "0") != 0)
            strcpy(values[count++], "0"); /* zero is a value */
        break;
    case DI_CHOICE:
        for (const char *at = row->choices; at && count < 4; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL) {
            size_t bytes = strcspn(at, "|");
            if (strlen(row->value) == bytes && strncmp(at, row->value, bytes) == 0)
                continue;
            snprintf(values[count++], 64, "%.*s", (int)bytes, at);
        }
        break;
    default:
        fail_msg("row %s: this test has no values of its type", row->name);
    }
    return count;
}

static void test_every_option_matters(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++) {
        const di_attention *record = attention_record(i);
        uint64_t plain, changed;
        assert_true(outcome(record, "", &plain));
        for (const di_option *row = record->part.options; row->name; row = di_option_after(row)) {
            char values[4][64], text[400];
            int32_t count = other_values(row, values);
            assert_true(count > 0);
            for (int32_t v = 0; v < count; v++) {
                snprintf(text, sizeof text, "%s=%s", row->name, values[v]);
                if (outcome(record, text, &changed) && changed == plain)
                    fail_msg("%s:%s changes nothing", record->part.name, text);
            }
        }
    }
}

/* An option that is refused alone is accepted beside another, and matters there. */
static void test_refused_options_have_their_place(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++) {
        const di_attention *record = attention_record(i);
        for (const di_option *row = record->part.options; row->name; row = di_option_after(row)) {
            char values[4][64], text[900];
            uint64_t with, without;
            bool accepted = false;
            (void)other_values(row, values);
            snprintf(text, sizeof text, "%s=%s", row->name, values[0]);
            for (const di_option *beside = record->part.options; beside->name && !accepted;
                 beside = di_option_after(beside)) {
                char more[4][64], alone[400];
                if (beside == row) {
                    accepted = outcome(record, text, &with);
                    continue;
                }
                (void)other_values(beside, more);
                snprintf(alone, sizeof alone, "%s=%s", beside->name, more[0]);
                snprintf(text, sizeof text, "%s,%s=%s", alone, row->name, values[0]);
                accepted = outcome(record, alone, &without) && outcome(record, text, &with) && with != without;
                snprintf(text, sizeof text, "%s=%s", row->name, values[0]);
            }
            if (!accepted)
                fail_msg("%s: option %s is never accepted", record->part.name, row->name);
        }
    }
}

static void test_every_option_has_help(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++) {
        const di_part *part = &attention_record(i)->part;
        assert_true(part->help && *part->help && part->paper && *part->paper);
        for (const di_option *row = part->options; row->name; row = di_option_after(row))
            if (!row->help || !*row->help)
                fail_msg("%s: option %s has no help", part->name, row->name);
    }
}

static void test_canonical_text(void **state) {
    (void)state;
    for (int64_t i = 0; attention_record(i); i++) {
        const di_attention *record = attention_record(i);
        for (const di_option *row = record->part.options; row->name; row = di_option_after(row)) {
            char values[4][64], text[400], printed[512];
            int64_t first[DI_OPTIONS_BYTES / sizeof(int64_t)], again[DI_OPTIONS_BYTES / sizeof(int64_t)];
            int32_t count = other_values(row, values);
            for (int32_t v = 0; v < count; v++) {
                snprintf(text, sizeof text, "%s=%s", row->name, values[v]);
                if (di_options_parse(&record->part, text, first) != DI_OK)
                    continue;
                assert_int_equal(di_options_print(&record->part, first, false, printed, sizeof printed), DI_OK);
                assert_int_equal(di_options_parse(&record->part, printed, again), DI_OK);
                assert_memory_equal(first, again, record->part.options_size);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_option_matters), cmocka_unit_test(test_refused_options_have_their_place),
        cmocka_unit_test(test_every_option_has_help), cmocka_unit_test(test_canonical_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
