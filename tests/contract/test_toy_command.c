/* SPDX-License-Identifier: Apache-2.0 */
/* The seventeenth part: one file and one row here, and every command knows it. */
#include "tests/support/run_command.h"
#include "tests/support/toy.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const di_part *const toys[] = {&di_toy_attention.part};

static const command_result *run(const char *const *words) { return run_command(toys, 1, NULL, words); }

static int setup(void **state) {
    if (command_setup(state))
        return 1;
    static char text[6000];
    for (size_t used = 0; used + 40 < sizeof text;)
        used += (size_t)snprintf(text + used, sizeof text - used, "line %zu of a small text\n", used);
    command_write_file(command_path("text"), text);
    return 0;
}

static void test_list(void **state) {
    (void)state;
    const command_result *result = run((const char *const[]){"list", "attention", NULL});
    assert_int_equal(result->code, 0);
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\n  %s", di_toy_attention.part.name);
    assert_holds(result->out, wanted);
}

static void test_help(void **state) {
    (void)state;
    const command_result *result = run((const char *const[]){"help", di_toy_attention.part.name, NULL});
    assert_int_equal(result->code, 0);
    assert_holds(result->out, di_toy_attention.part.help);
    for (const di_option *row = di_toy_attention.part.options; row && row->name; row = di_option_after(row))
        assert_holds(result->out, row->name);
}

static void test_compare(void **state) {
    (void)state;
    char data[256], wanted[128];
    snprintf(data, sizeof data, "--data=%s", command_path("text"));
    const command_result *result = run(
        (const char *const[]){"compare",   "attention",    "--layers", "1",  "--width", "16", "--heads",     "2",
                              "--context", "16",           "--batch",  "2",  "--steps", "4",  "--no-curves", "--seeds",
                              "2",         "--validation", "1",        data, NULL});
    assert_int_equal(result->code, 0);
    snprintf(wanted, sizeof wanted, "\n%s ", di_toy_attention.part.name);
    assert_holds(result->out, "\nsoftmax ");
    assert_holds(result->out, "\nsigmoid ");
    assert_holds(result->out, wanted); /* in the default: every part of the slot */
}

static void test_nearest(void **state) {
    (void)state;
    char name[64];
    snprintf(name, sizeof name, "%sx", di_toy_attention.part.name);
    const command_result *result = run((const char *const[]){"compare", "attention", name, NULL});
    assert_int_equal(result->code, 2);
    char wanted[128];
    snprintf(wanted, sizeof wanted, "did you mean \"%s\"?", di_toy_attention.part.name);
    assert_holds(result->err, wanted);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_list), cmocka_unit_test(test_help),
                                       cmocka_unit_test(test_compare), cmocka_unit_test(test_nearest)};
    return cmocka_run_group_tests_name("toy command", tests, setup, command_teardown);
}
