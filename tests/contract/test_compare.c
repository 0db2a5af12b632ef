/* SPDX-License-Identifier: Apache-2.0 */
/* dropin compare and claim: the results, the files, and going on after an interruption of any kind. */
#include "tests/support/run_command.h"
#include <cjson/cJSON.h>
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { WORDS = 64 };

static const char *words[WORDS + 1];
static int32_t count;

static void add(const char *word) {
    assert_true(count < WORDS);
    words[count++] = word;
}

/* compare attention with a small model on the test's text, then the words given, NULL-ended. */
static void line(const char *steps, const char *const *more) {
    static const char *const start[] = {
        "compare", "attention", "--layers", "1", "--width",      "16", "--heads",     "2",         "--context", "16",
        "--batch", "2",         "--warmup", "2", "--validation", "2",  "--no-curves", "--threads", "1"};
    static char data[256];
    count = 0;
    for (size_t i = 0; i < sizeof start / sizeof *start; i++)
        add(start[i]);
    snprintf(data, sizeof data, "--data=%s", command_path("text"));
    add(data);
    add("--steps");
    add(steps);
    for (; *more; more++)
        add(*more);
    words[count] = NULL;
}

static double number(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item))
        fail_msg("%s is not a number", name);
    return item->valuedouble;
}

static const cJSON *row_of(const cJSON *object, int32_t index) {
    return cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(object, "rows"), index);
}

static int setup(void **state) {
    if (command_setup(state))
        return 1;
    static char text[12000];
    static const char *const parts[] = {"to ", "be ", "or ", "not ", "that ", "is ", "the ", "question\n"};
    for (size_t used = 0, i = 7; used + 12 < sizeof text; i = (i * 29 + 11) % 1009)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s", parts[i % 8]);
    command_write_file(command_path("text"), text);
    return 0;
}

/* Journals in the state folder. */
static int32_t journals(char *path, size_t capacity) {
    DIR *folder = opendir(command_path("state/dropin"));
    int32_t found = 0;
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (strncmp(entry->d_name, "compare-", 8) == 0) {
            char name[300];
            snprintf(name, sizeof name, "state/dropin/%s", entry->d_name);
            snprintf(path, capacity, "%s", command_path(name));
            found++;
        }
    if (folder)
        closedir(folder);
    return found;
}

static int32_t lines_of(const char *path) {
    FILE *file = fopen(path, "r");
    int32_t lines = 0;
    for (int c; file && (c = fgetc(file)) != EOF;)
        lines += c == '\n';
    if (file)
        fclose(file);
    return lines;
}

static void pause_ms(long ms) {
    const struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* ---- results -------------------------------------------------------------------------------------------------------
 */

static void test_results(void **state) {
    (void)state;
    char json[256];
    snprintf(json, sizeof json, "--json=%s", command_path("a.json"));
    line("8", (const char *const[]){"softmax", "sigmoid:bias=0", "--seeds", "2", json, NULL});
    const command_result *result = run_command(NULL, 0, NULL, words);
    assert_int_equal(result->code, 0);
    assert_string_equal(result->err, ""); /* no terminal: no progress */
    assert_holds(result->out, "validation loss");
    assert_holds(result->out, "\nsigmoid:bias=0 ");
    assert_holds(result->out, "hash ");
    assert_holds(result->out, " ± ");
    cJSON *object = command_json("a.json");
    assert_int_equal(number(object, "version"), 1);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, "complete")));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(object, "rows")), 2);
    for (int32_t i = 0; i < 2; i++) {
        const cJSON *row = row_of(object, i);
        static const char *const positive[] = {"loss_mean",       "seconds_per_step", "tokens_per_second",
                                               "peak_bytes",      "rss_bytes",        "parameters",
                                               "flops_per_token", "product_fraction"};
        for (size_t j = 0; j < sizeof positive / sizeof *positive; j++)
            if (!(number(row, positive[j]) > 0))
                fail_msg("%s is %g", positive[j], number(row, positive[j]));
        const cJSON *runs = cJSON_GetObjectItemCaseSensitive(row, "runs");
        assert_int_equal(cJSON_GetArraySize(runs), 2);
        double a = number(cJSON_GetArrayItem(runs, 0), "loss"), b = number(cJSON_GetArrayItem(runs, 1), "loss");
        assert_true(a != b);
        assert_float_equal(number(row, "loss_mean"), (a + b) / 2, 1e-12);
        assert_float_equal(number(row, "loss_stderr"), fabs(a - b) / 2, 1e-12); /* sd / sqrt 2 of two */
    }
    /* Paired: the error of the difference is that of the differences. */
    const cJSON *a = cJSON_GetObjectItemCaseSensitive(row_of(object, 0), "runs");
    const cJSON *b = cJSON_GetObjectItemCaseSensitive(row_of(object, 1), "runs");
    double d[2];
    for (int32_t i = 0; i < 2; i++)
        d[i] = number(cJSON_GetArrayItem(b, i), "loss") - number(cJSON_GetArrayItem(a, i), "loss");
    assert_float_equal(number(row_of(object, 1), "difference_mean"), (d[0] + d[1]) / 2, 1e-12);
    assert_float_equal(number(row_of(object, 1), "difference_stderr"), fabs(d[0] - d[1]) / 2, 1e-12);
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(row_of(object, 0), "difference_mean")));
    cJSON_Delete(object);
    char path[512];
    assert_int_equal(journals(path, sizeof path), 0);
}

static void test_one_seed(void **state) {
    (void)state;
    char json[256];
    snprintf(json, sizeof json, "--json=%s", command_path("one.json"));
    line("4", (const char *const[]){"--seeds", "1", "sigmoid", json, NULL});
    const command_result *result = run_command(NULL, 0, NULL, words);
    assert_int_equal(result->code, 0);
    assert_holds(result->out, "± –");
    assert_holds(result->out, "\nsoftmax"); /* the standard part was not named and is there */
    cJSON *object = command_json("one.json");
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(row_of(object, 1), "loss_stderr")));
    cJSON_Delete(object);
}

static void test_rates(void **state) {
    (void)state;
    char json[256];
    snprintf(json, sizeof json, "--json=%s", command_path("rates.json"));
    line("6", (const char *const[]){"softmax", "--seeds", "2", "--lr", "1e-6,1e-2", json, NULL});
    const command_result *result = run_command(NULL, 0, NULL, words);
    assert_int_equal(result->code, 0);
    assert_holds(result->out, "Every learning rate");
    assert_holds(result->out, "best lr");
    cJSON *object = command_json("rates.json");
    const cJSON *rates = cJSON_GetObjectItemCaseSensitive(row_of(object, 0), "rates");
    assert_int_equal(cJSON_GetArraySize(rates), 2);
    double slow = number(cJSON_GetArrayItem(rates, 0), "loss_mean"),
           fast = number(cJSON_GetArrayItem(rates, 1), "loss_mean");
    assert_true(fast < slow);
    assert_float_equal(number(row_of(object, 0), "lr"), 1e-2, 0);
    assert_float_equal(number(row_of(object, 0), "loss_mean"), fast, 0);
    cJSON_Delete(object);
}

static void test_picture(void **state) {
    (void)state;
    char plot[256], text[64] = "";
    snprintf(plot, sizeof plot, "--plot=%s", command_path("curves.svg"));
    line("4", (const char *const[]){"--seeds", "2", "--curves", plot, NULL});
    const command_result *result = run_command(NULL, 0, NULL, words);
    if (strstr(result->err, "gnuplot: not installed")) {
        assert_int_equal(result->code, 1); /* the picture was asked for */
        assert_holds(result->out, "\nsigmoid");
        skip();
    }
    assert_int_equal(result->code, 0);
    assert_holds(result->out, "training step");
    FILE *file = fopen(command_path("curves.svg"), "r");
    assert_non_null(file);
    assert_true(fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    assert_holds(text, "<?xml");
}

/* Without gnuplot the table stands, and one sentence says what is missing. */
static void test_no_gnuplot(void **state) {
    (void)state;
    char *path = strdup(getenv("PATH"));
    assert_non_null(path);
    setenv("PATH", command_path("nowhere"), 1);
    line("2", (const char *const[]){"softmax", "--seeds", "1", "--curves", NULL});
    const command_result *result = run_command(NULL, 0, NULL, words);
    setenv("PATH", path, 1);
    free(path);
    assert_int_equal(result->code, 0);
    assert_holds(result->out, "\nsoftmax");
    assert_string_equal(result->err, "compare: no curves on the terminal (gnuplot: not installed); the package "
                                     "gnuplot-nox has it\n");
}

/* ---- interruptions -------------------------------------------------------------------------------------------------
 */

/* Starts six runs, waits until the journal has some lines, sends the signal. */
static const command_result *interrupt(int number) {
    line("200", (const char *const[]){"softmax", "sigmoid", "--seeds", "3", NULL});
    pid_t child = command_begin(NULL, 0, NULL, words);
    char path[512];
    bool begun = false;
    for (int32_t i = 0; i < 3000 && !begun; i++) {
        pause_ms(5);
        begun = journals(path, sizeof path) == 1 && lines_of(path) >= 2;
    }
    kill(child, number);
    const command_result *result = command_wait(child);
    assert_true(begun);
    assert_int_equal(journals(path, sizeof path), 1);
    return result;
}

/* Losses of all runs, in order. */
static int32_t losses_of(const char *name, double *losses) {
    cJSON *object = command_json(name);
    int32_t used = 0;
    for (int32_t i = 0; i < 2; i++) {
        const cJSON *run;
        cJSON_ArrayForEach(run, cJSON_GetObjectItemCaseSensitive(row_of(object, i), "runs")) losses[used++] =
            number(run, "loss");
    }
    cJSON_Delete(object);
    return used;
}

/* The same command again: it must go on, and end with the numbers of an undisturbed one. */
static void goes_on(void) {
    char json[256], path[512];
    double resumed[6] = {0}, whole[6] = {1};
    snprintf(json, sizeof json, "--json=%s", command_path("resumed.json"));
    line("200", (const char *const[]){"softmax", "sigmoid", "--seeds", "3", json, NULL});
    const command_result *result = run_command(NULL, 0, NULL, words);
    assert_int_equal(result->code, 0);
    assert_holds(result->err, "compare: goes on; ");
    assert_holds(result->err, " of 6 runs were finished before");
    assert_int_equal(journals(path, sizeof path), 0);
    assert_int_equal(losses_of("resumed.json", resumed), 6);
    result = run_command(NULL, 0, NULL, words);
    assert_int_equal(result->code, 0);
    assert_string_equal(result->err, "");
    assert_int_equal(losses_of("resumed.json", whole), 6);
    assert_memory_equal(resumed, whole, sizeof whole);
}

static void test_ctrl_c(void **state) {
    (void)state;
    const command_result *result = interrupt(SIGINT);
    assert_int_equal(result->code, 130);
    assert_holds(result->out, "Interrupted: ");
    assert_holds(result->out, " of 6 runs were finished");
    assert_holds(result->out, "1 of 3");
    assert_holds(result->err, "dropin: interrupted");
    goes_on();
}

static void test_kill(void **state) {
    (void)state;
    assert_int_equal(interrupt(SIGKILL)->code, 128 + SIGKILL);
    char path[512];
    assert_int_equal(journals(path, sizeof path), 1);
    FILE *file = fopen(path, "a"); /* a line that was cut, as a power failure leaves it */
    assert_non_null(file);
    fputs("{\"version\":1,\"part\":\"softmax\",\"seed\":2,\"lr\":0.003,\"loss\":1.", file);
    fclose(file);
    goes_on();
}

/* Results that did not arrive are not forgotten: with the disk full, the next start has them at once. */
static void test_not_delivered(void **state) {
    (void)state;
    char path[512];
    line("3", (const char *const[]){"softmax", "--seeds", "2", NULL});
    const command_result *result = run_command(NULL, 0, "/dev/full", words);
    assert_int_equal(result->code, 1);
    assert_holds(result->err, "dropin: cannot write the results: No space left on device");
    assert_int_equal(journals(path, sizeof path), 1);
    result = run_command(NULL, 0, NULL, words);
    assert_int_equal(result->code, 0);
    assert_holds(result->err, "goes on; 2 of 2 runs were finished before");
    assert_holds(result->out, "\nsoftmax ");
    assert_int_equal(journals(path, sizeof path), 0);
}

static void test_fresh(void **state) {
    (void)state;
    interrupt(SIGTERM);
    line("200", (const char *const[]){"softmax", "sigmoid", "--seeds", "3", "--fresh", NULL});
    const command_result *result = run_command(NULL, 0, NULL, words);
    assert_int_equal(result->code, 0);
    assert_string_equal(result->err, "");
    char path[512];
    assert_int_equal(journals(path, sizeof path), 0);
}

/* A state folder that cannot be used is said once; the comparison stands. */
static void test_no_state(void **state) {
    (void)state;
    command_write_file(command_path("file"), "");
    setenv("XDG_STATE_HOME", command_path("file"), 1);
    line("2", (const char *const[]){"softmax", "--seeds", "1", NULL});
    const command_result *result = run_command(NULL, 0, NULL, words);
    setenv("XDG_STATE_HOME", command_path("state"), 1);
    assert_int_equal(result->code, 0);
    assert_holds(result->err, "no journal");
}

/* ---- claims --------------------------------------------------------------------------------------------------------
 */

static void test_claim_list(void **state) {
    (void)state;
    const command_result *result = run_command(NULL, 0, NULL, (const char *const[]){"claim", NULL});
    assert_int_equal(result->code, 0);
    assert_holds(result->out, "sigmoid ");
    assert_holds(result->out, "minutes");
}

/* A miniature: one step decides nothing about losses, but the norms at the start are there, and the table of results
 * grows by one row a run with seeds that it has not seen. */
static void test_claim_miniature(void **state) {
    (void)state;
    char data[256], results[256], text[4096] = "";
    snprintf(data, sizeof data, "--data=%s", command_path("text"));
    snprintf(results, sizeof results, "--results=%s", command_path("results.csv"));
    const char *const claim[] = {"claim",   "sigmoid", data,        results, "--steps", "1",
                                 "--seeds", "2",       "--threads", "1",     NULL};
    for (int32_t i = 0; i < 2; i++) {
        const command_result *result = run_command(NULL, 0, NULL, claim);
        assert_int_equal(result->code, 0);
        assert_holds(result->out, "norm ratio at step 0");
        assert_holds(result->out, "mean + 2 standard errors <= 0.06");
        assert_holds(result->out, "claim sigmoid: miniature");
        const char *ratio = strstr(result->out, "norm ratio at step 0");
        char *row_end = strchr(ratio, '\n');
        *row_end = 0;
        assert_holds(ratio, "holds");
    }
    FILE *file = fopen(command_path("results.csv"), "r");
    assert_non_null(file);
    assert_true(fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    assert_int_equal(lines_of(command_path("results.csv")), 3);
    assert_true(strncmp(text,
                        "date,commit,machine,threads,level,claim,data,data_hash,first_seed,seeds,values,verdict\n",
                        strlen("date,commit")) == 0);
    assert_holds(text, ",0,2,\"sigmoid - softmax = ");
    assert_holds(text, ",2,2,\"sigmoid - softmax = "); /* the second run's seeds follow the first's */
    assert_holds(text, "\",miniature\n");
}

static void test_claim_elsewhere(void **state) {
    (void)state;
    char data[256];
    snprintf(data, sizeof data, "--data=%s", command_path("text"));
    const command_result *result = run_command(NULL, 0, NULL,
                                               (const char *const[]){"claim", "sigmoid", data, "--steps=1", "--seeds=2",
                                                                     "--threads=1", "--results=/nowhere/r.csv", NULL});
    assert_int_equal(result->code, 0);
    assert_holds(result->err, "the outcome will be printed, but not kept");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_results),        cmocka_unit_test(test_one_seed),
                                       cmocka_unit_test(test_rates),          cmocka_unit_test(test_picture),
                                       cmocka_unit_test(test_no_gnuplot),     cmocka_unit_test(test_ctrl_c),
                                       cmocka_unit_test(test_kill),           cmocka_unit_test(test_fresh),
                                       cmocka_unit_test(test_not_delivered),  cmocka_unit_test(test_no_state),
                                       cmocka_unit_test(test_claim_list),     cmocka_unit_test(test_claim_miniature),
                                       cmocka_unit_test(test_claim_elsewhere)};
    return cmocka_run_group_tests_name("compare", tests, setup, command_teardown);
}
