/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands share: numbers for people, wrapped text, tables, other programs, option rules in words. */
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/process.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void human(double value, const char *unit, const char *expected) {
    char text[32];
    assert_string_equal(di_human(value, unit, text, sizeof text), expected);
}

static void test_human(void **state) {
    (void)state;
    human(0, "B", "0 B");
    human(12, "B", "12 B");
    human(999, "B", "999 B");
    human(999.6, "B", "1.00 kB");
    human(12345678, "B", "12.3 MB");
    human(0.0341, "s", "34.1 ms");
    human(0.00000051, "s", "510 ns");
    human(60100, "", "60.1k");
    human(9.995e8, "", "1.00G");
    human(1.5e9, "FLOP/s", "1.50 GFLOP/s");
    human(-2500, "", "-2.50k");
    human(INFINITY, "s", "inf s");
}

/* What `write` prints with `columns` columns. */
static const char *printed(void (*write)(di_cli *cli), int32_t columns) {
    static char text[4096];
    FILE *file = tmpfile();
    assert_non_null(file);
    di_cli cli = {.out = file, .err = file, .columns = columns};
    write(&cli);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static void write_wrapped(di_cli *cli) {
    di_print_wrapped(cli->out, cli->columns, 0, 2, "one two three [--json FILE] ± five\n  kept\nnext line");
}

static void test_wrapped(void **state) {
    (void)state;
    assert_string_equal(printed(write_wrapped, 14),
                        "one two three\n  [--json FILE]\n  ± five\n    kept\n  next line\n");
    assert_string_equal(printed(write_wrapped, 80), "one two three [--json FILE] ± five\n    kept\n  next line\n");
}

static void write_table(di_cli *cli) {
    static const char *const titles[] = {"part", "validation\nloss", "difference", "note"};
    di_table_print *table = di_table_begin(4, titles);
    di_table_cell(table, "softmax");
    di_table_cell(table, "%.2f ± %.2f", 2.16, 0.01);
    di_table_cell(table, "–");
    di_table_cell(table, "a");
    di_table_cell(table, "sigmoid");
    di_table_cell(table, "%.2f", 12.5);
    di_table_cell(table, "%+.3f", 0.024);
    di_table_cell(table, "bb");
    di_table_end(table, cli);
}

static void test_table(void **state) {
    (void)state;
    assert_string_equal(printed(write_table, 80), "          validation\n"
                                                  "part            loss  difference  note\n"
                                                  "softmax  2.16 ± 0.01           –  a\n"
                                                  "sigmoid        12.50      +0.024  bb\n");
    assert_string_equal(printed(write_table, 30), "          validation\n"
                                                  "part            loss\n"
                                                  "softmax  2.16 ± 0.01\n"
                                                  "sigmoid        12.50\n"
                                                  "\n"
                                                  "part     difference  note\n"
                                                  "softmax           –  a\n"
                                                  "sigmoid      +0.024  bb\n");
}

static void test_process(void **state) {
    (void)state;
    /* More than both pipes hold together: neither side may wait for the other. */
    enum { BYTES = 1 << 20 };
    char *input = malloc(BYTES), *output = NULL;
    size_t bytes = 0;
    assert_non_null(input);
    for (size_t i = 0; i < BYTES; i++)
        input[i] = (char)('a' + i % 26);
    assert_int_equal(di_process_run((const char *const[]){"cat", NULL}, input, BYTES, &output, &bytes), DI_OK);
    assert_int_equal(bytes, BYTES);
    assert_memory_equal(output, input, BYTES);
    free(output);
    /* A program that reads nothing. */
    assert_int_equal(di_process_run((const char *const[]){"true", NULL}, input, BYTES, &output, &bytes), DI_OK);
    assert_int_equal(bytes, 0);
    free(output);
    free(input);
    assert_int_equal(di_process_run((const char *const[]){"false", NULL}, "", 0, &output, &bytes), DI_EIO);
    assert_null(output);
    assert_int_equal(di_process_run((const char *const[]){"no-such-program-here", NULL}, "x", 1, &output, &bytes),
                     DI_ENAME);
    assert_string_equal(di_message(), "no-such-program-here: not installed");
}

static void range(di_option row, const char *expected) {
    char text[160];
    assert_string_equal(di_option_range(&row, text, sizeof text), expected);
}

static void test_range(void **state) {
    (void)state;
    range((di_option){.type = DI_INT}, "");
    range((di_option){.type = DI_INT, .min = 1, .max = 64}, "1 to 64");
    range((di_option){.type = DI_INT, .min = 1, .max = 1e9}, "at least 1");
    range((di_option){.type = DI_NUMBER, .min = 0, .max = 1, .flags = DI_OPEN_MAX}, "at least 0, less than 1");
    range((di_option){.type = DI_NUMBER, .min = 0, .max = INFINITY, .flags = DI_OPEN_MIN}, "more than 0");
    range((di_option){.type = DI_CHOICE, .choices = "a|b"}, "a|b");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_human), cmocka_unit_test(test_wrapped),
                                       cmocka_unit_test(test_table), cmocka_unit_test(test_process),
                                       cmocka_unit_test(test_range)};
    return cmocka_run_group_tests_name("cli", tests, NULL, NULL);
}
