/* SPDX-License-Identifier: Apache-2.0 */
/* The command as its user meets it: what it prints where, what it says about bad input, and its exit codes. */
#include "tests/support/run_command.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { WORDS = 48 };

/* Words separated by spaces, "@name" standing for a path in the test's folder. */
static const command_result *run_to(const char *out, const char *line) {
    static char text[2048], paths[8][256];
    const char *words[WORDS] = {0};
    int32_t count = 0, used = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word && count < WORDS - 1; word = strtok(NULL, " ")) {
        char *at = strchr(word, '@');
        if (at) {
            snprintf(paths[used], sizeof paths[0], "%.*s%s", (int)(at - word), word, command_path(at + 1));
            word = paths[used++];
        }
        words[count++] = word;
    }
    return run_command(NULL, 0, out, words);
}

static const command_result *run(const char *line) { return run_to(NULL, line); }

/* The line ends with `code`, nothing on stdout, and a message that holds `says`. */
static void refused(const char *line, int code, const char *says) {
    const command_result *result = run(line);
    assert_holds(result->err, says);
    assert_int_equal(result->code, code);
    assert_string_equal(result->out, "");
    assert_true(strncmp(result->err, "dropin: ", 8) == 0);
}

/* A model that trains in a moment. */
static const char small[] = "--data @text --layers 1 --width 16 --heads 2 --context 16 --batch 2 --steps 6 --warmup 2 "
                            "--validation 2 --no-curves";

static int setup(void **state) {
    if (command_setup(state))
        return 1;
    static char text[12000];
    static const char *const words[] = {"to ", "be ", "or ", "not ", "that ", "is ", "the ", "question\n"};
    for (size_t used = 0, i = 7; used + 12 < sizeof text; i = (i * 29 + 11) % 1009)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s", words[i % 8]);
    command_write_file(command_path("text"), text);
    command_write_file(command_path("empty"), "");
    command_write_file(command_path("short"), "too short");
    return mkdir(command_path("nothing"), 0700);
}

/* ---- list, help, version ------------------------------------------------------------------------------------------
 */

static void test_list(void **state) {
    (void)state;
    const command_result *result = run("list");
    assert_int_equal(result->code, 0);
    assert_string_equal(result->err, "");
    assert_holds(result->out, "attention\n  softmax");
    assert_holds(result->out, "\n  sigmoid");
    assert_holds(result->out, "arXiv 2409.04431");
    assert_holds(result->out, "\noptimizer\n");
    assert_holds(result->out, "\n  adamw ");
    assert_holds(result->out, "\n  adamw8bit   stands for adamw:bits=8\n");
    result = run("list optimizer");
    assert_int_equal(result->code, 0);
    assert_null(strstr(result->out, "sigmoid"));
    refused("list attenton", 2, "did you mean \"attention\"?");
}

/* Every line of help fits in 80 columns, and nothing in it is a terminal's escape. */
static void fits(const char *text) {
    int32_t columns = 0;
    for (const char *at = text; *at; at++) {
        assert_true(*at != '\033');
        columns = *at == '\n' ? 0 : columns + (((unsigned char)*at & 0xC0) != 0x80);
        if (columns > 80)
            fail_msg("wider than 80 columns: %.100s", at - 60);
    }
}

static void test_help(void **state) {
    (void)state;
    const command_result *result = run("help");
    assert_int_equal(result->code, 0);
    fits(result->out);
    assert_holds(result->out, "compare");
    assert_holds(result->out, "130 ");
    static const char *const names[] = {"compare", "claim", "train", "eval", "list", "help", "version"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char line[64];
        snprintf(line, sizeof line, "help %s", names[i]);
        result = run(line);
        assert_int_equal(result->code, 0);
        assert_string_equal(result->err, "");
        fits(result->out);
        snprintf(line, sizeof line, "dropin %s", names[i]);
        assert_holds(result->out, line);
    }
    result = run("help compare");
    assert_holds(result->out, "--json FILE");
    assert_holds(result->out, "--kv-heads N|auto");
    assert_holds(result->out, "--[no-]rope");
    result = run("help sigmoid");
    assert_int_equal(result->code, 0);
    fits(result->out);
    assert_holds(result->out, "bias=X|auto");
    assert_holds(result->out, "Replaces    softmax");
    assert_holds(result->out, "2409.04431");
    result = run("help adamw8bit");
    assert_int_equal(result->code, 0);
    fits(result->out);
    assert_holds(result->out, "adamw8bit stands for adamw:bits=8: ");
    assert_holds(result->out, "weight_decay=X"); /* its own rows, and those that all share */
    assert_holds(result->out, "min_8bit_size=N");
    result = run("compare attention --help");
    assert_int_equal(result->code, 0);
    assert_holds(result->out, "--seeds N");
    result = run("help attention");
    assert_int_equal(result->code, 0);
    assert_holds(result->out, "sigmoid");
    refused("help sigmod", 2, "did you mean \"sigmoid\"?");
    assert_int_equal(run("")->code, 2);
}

static void test_version(void **state) {
    (void)state;
    const command_result *result = run("--version");
    assert_int_equal(result->code, 0);
    assert_holds(result->out, "dropin 0.");
    assert_holds(result->out, "plain base");
    assert_holds(result->out, "affinity");
    assert_holds(result->out, "quota");
    assert_holds(result->out, "cJSON 1.");
}

/* ---- bad input ----------------------------------------------------------------------------------------------------
 */

static void test_usage(void **state) {
    (void)state;
    refused("compre attention", 2, "no command \"compre\"; did you mean \"compare\"?");
    refused("compare attention --sedes 3", 2, "no option --sedes; did you mean --seeds?");
    refused("compare attention -s 3", 2, "options begin with --");
    refused("compare attention --seeds", 2, "--seeds needs a value");
    refused("compare attention --json --plot a.svg", 2, "--json needs a value");
    refused("compare attention --seeds 0", 2, "seeds=0; must be");
    refused("compare attention --seeds=three", 2, "seeds=three");
    refused("compare attention --threads 0", 2, "threads=0; must be");
    refused("compare attention --lr 1e-3,fast", 2, "lr=1e-3,fast");
    refused("compare attention --lr 0", 2, "above 0");
    refused("compare attention --lr 1e-3,1e-3", 2, "twice");
    refused("compare attention --plot curves.pdf", 2, ".svg or .png");
    refused("compare attention --json /nowhere/a.json", 1, "/nowhere");
    refused("compare", 2, "usage: dropin compare");
    refused("compare attenton", 2, "did you mean \"attention\"?");
    refused("compare model", 2, "the slot model is not compared yet");
    refused("compare optimiser", 2, "did you mean \"optimizer\"?");
    refused("compare optimizer admw8bit", 2, "did you mean \"adamw8bit\"?");
    refused("compare optimizer adamw adamw", 2, "adamw is given twice");
    refused("compare optimizer adamw8bit adamw:bits=8", 2, "adamw:bits=8 is given twice");
    refused("help admw8bit", 2, "did you mean \"adamw8bit\"?");
    refused("compare optimizer adamw:lr=1e-2 --lr 1e-3,2e-3", 2, "names its own rate");
    refused("compare optimizer adamw:lr=0", 2, "above 0");
    refused("compare optimizer adamw --optimizer adamw", 2, "--optimizer does not go");
    refused("compare attention --attention sigmoid", 2, "--attention does not go");
    refused("compare attention --model window", 2, "window has no attention");
    refused("compare optimizer adamw --model window --layers 3", 2, "--layers is an option of the GPT");
    refused("compare optimizer adamw --model widow", 2, "did you mean \"window\"?");
    refused("compare optimizer adamw --symbols bytes --min-count 3", 2, "min_count=3 has no meaning");
    refused("compare attention --width 30 --heads 4 --data @text", 2, "width=30 is not a multiple of heads=4");
    refused("list one two", 2, "one word too many: two");
    refused("claim sigmod", 2, "did you mean \"sigmoid\"?");
}

static void test_parts(void **state) {
    (void)state;
    refused("compare attention sigmod", 2, "no part \"sigmod\"; did you mean \"sigmoid\"?");
    refused("compare attention sigmoid:bias=abc", 2, "sigmoid: bias=abc");
    refused("compare attention sigmoid:bais=0", 2, "sigmoid: no option \"bais\"; did you mean \"bias\"?");
    refused("compare attention sigmoid:bias=nan", 2, "sigmoid: bias=nan");
    refused("compare attention sigmoid sigmoid:bias=auto", 2, "sigmoid is given twice");
}

static void test_data(void **state) {
    (void)state;
    refused("compare attention --data @missing", 1, "/missing: No such file");
    refused("compare attention --data @empty", 1, "/empty");
    refused("compare attention --data @nothing", 1, "/nothing");
    const command_result *result = run("compare attention --data @short");
    assert_holds(result->err, "/short");
    assert_holds(result->err, "context");
    assert_true(result->code == 1 || result->code == 2);
}

static void test_full_disk(void **state) {
    (void)state;
    const command_result *result = run_to("/dev/full", "list");
    assert_int_equal(result->code, 1);
    assert_holds(result->err, "No space left on device");
    char line[1024];
    snprintf(line, sizeof line, "compare attention softmax --seeds 1 --json /dev/full %s", small);
    result = run(line);
    assert_int_equal(result->code, 1);
    assert_holds(result->err, "/dev/full: cannot write: No space left on device");
    assert_holds(result->out, "softmax"); /* the table stands */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),      cmocka_unit_test(test_help),  cmocka_unit_test(test_version),
        cmocka_unit_test(test_usage),     cmocka_unit_test(test_parts), cmocka_unit_test(test_data),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests_name("command", tests, setup, command_teardown);
}
