/* SPDX-License-Identifier: Apache-2.0 */
/* `dropin train` and `dropin plan` as a user runs them: killed and resumed, interrupted, given nonsense. */
#include "support/process.h"
#include "support/scratch.h"
#include "train/trainer.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char dropin[] = DI_BUILD_FOLDER "/dropin";
static char data_path[SCRATCH_PATH];

/* A tiny run: 120 steps of a few milliseconds. */
static const char *const tiny[] = {"--layers",     "1", "--width", "16",  "--heads",  "2", "--context", "16",
                                   "--batch",      "4", "--steps", "120", "--warmup", "5", "--threads", "1",
                                   "--validation", "2", NULL};

/* dropin COMMAND --data DATA, the rows of `common` (may be NULL), then the arguments up to NULL. */
static const char **line(const char **argv, const char *command, const char *const *common, ...) {
    int at = 0;
    argv[at++] = dropin;
    argv[at++] = command;
    argv[at++] = "--data";
    argv[at++] = data_path;
    for (; common && *common; common++)
        argv[at++] = *common;
    va_list more;
    va_start(more, common);
    do
        argv[at] = va_arg(more, const char *);
    while (argv[at++]);
    va_end(more);
    assert_true(at <= PROCESS_WORDS);
    return argv;
}

static process_result result;
static const char *argv[PROCESS_WORDS];

static void run(const char **words) { process_run(&(const process_start){0}, words, &result); }

static int make_data(void **state) {
    (void)state;
    scratch_path("data.txt", data_path);
    FILE *file = fopen(data_path, "w");
    assert_non_null(file);
    for (int i = 0; i < 400; i++)
        fprintf(file, "%d times %d is %d.\n", i % 23, i % 7, (i % 23) * (i % 7));
    fclose(file);
    return 0;
}

static int remove_data(void **state) {
    (void)state;
    scratch_remove();
    return 0;
}

/* ---- killed and resumed
 * ------------------------------------------------------------------------------------------------ */

/* Kills runs with this optimizer at `moments` moments; how many lives were cut. */
static int kill_and_resume(const char *optimizer, int moments) {
    char alone[SCRATCH_PATH], killed[SCRATCH_PATH];
    scratch_path("alone", alone);
    scratch_path("killed", killed);
    run(line(argv, "train", tiny, "--attention", "sigmoid:train_bias=on", "--optimizer", optimizer, "--checkpoint",
             alone, "--every", "7", NULL));
    assert_code(&result, 0);
    int cut = 0;
    for (int moment = 0; moment < moments; moment++) {
        unlink(killed);
        bool finished = false;
        /* Each life is killed a little later than it began; the last one is left alone. */
        for (int life = 0; life < 4 && !finished; life++) {
            if (access(killed, R_OK) == 0)
                line(argv, "train", NULL, "--resume", killed, "--every", "1", "--threads", "2", "--validation", "1",
                     NULL);
            else
                line(argv, "train", tiny, "--attention", "sigmoid:train_bias=on", "--optimizer", optimizer,
                     "--checkpoint", killed, "--every", "1", NULL);
            pid_t pid = process_begin(argv);
            sleep_milliseconds(25 + 13 * moment + 40 * life);
            kill(pid, SIGKILL);
            int code = process_wait(pid);
            assert_true(code == 0 || code == 1000 + SIGKILL);
            cut += code != 0;
            finished = code == 0;
        }
        if (access(killed, R_OK) != 0)
            continue; /* every life was too short to write anything */
        run(line(argv, "train", NULL, "--resume", killed, "--threads", "1", "--every", "0", NULL));
        assert_code(&result, 0);
        assert_true(same_files(alone, killed));
    }
    return cut;
}

static void test_kill_9_then_resume_gives_the_same_bytes(void **state) {
    (void)state;
    assert_true(kill_and_resume("adamw:beta2=0.95,weight_decay=0", 6) >= 4);
}

/* Codes, scales, bases and histories are in the checkpoint, too; codes that are rounded by chance draw the same. */
static void test_kill_9_with_codes_and_projections(void **state) {
    (void)state;
    assert_true(kill_and_resume("adamw8bit:min_8bit_size=64,codes=stochastic", 2) >= 1);
    assert_true(kill_and_resume("adamw8bit:min_8bit_size=16,projector=[natural_galore:rank=4,gap=10,history=3]", 2) >=
                1);
}

static void test_ctrl_c_saves_and_says_so(void **state) {
    (void)state;
    char alone[SCRATCH_PATH], path[SCRATCH_PATH], err[SCRATCH_PATH];
    scratch_path("alone2", alone);
    scratch_path("interrupted", path);
    scratch_path("process.err", err);
    run(line(argv, "train", tiny, "--checkpoint", alone, "--steps", "1500", NULL));
    assert_code(&result, 0);
    line(argv, "train", tiny, "--checkpoint", path, "--every", "0", "--steps", "1500", NULL);
    pid_t pid = process_begin(argv);
    while (access(path, R_OK) != 0) /* written at the start */
        sleep_milliseconds(1);
    sleep_milliseconds(30);
    kill(pid, SIGINT);
    assert_int_equal(process_wait(pid), 130);
    assert_false(same_files(alone, path));
    run(line(argv, "train", NULL, "--resume", path, "--threads", "1", NULL));
    assert_code(&result, 0);
    assert_err_has(&result, "goes on after step ");
    assert_true(same_files(alone, path));
}

static void test_resume_follows_the_checkpoint(void **state) {
    (void)state;
    char path[SCRATCH_PATH], copy[SCRATCH_PATH], other[SCRATCH_PATH];
    scratch_path("follow", path);
    scratch_path("follow2", copy);
    scratch_path("other.txt", other);
    run(line(argv, "train", tiny, "--checkpoint", path, "--steps", "3", NULL));
    assert_code(&result, 0);
    assert_out_has(&result, "softmax");
    run(line(argv, "train", NULL, "--resume", path, "--checkpoint", copy, NULL));
    assert_code(&result, 0);
    assert_true(same_files(path, copy));
    run(line(argv, "train", NULL, "--resume", path, "--width", "32", NULL));
    assert_code(&result, 2);
    assert_err_has(&result, "train: --width does not go with --resume");
    run(line(argv, "train", NULL, "--resume", path, "--attention", "sigmoid", NULL));
    assert_code(&result, 2);
    assert_err_has(&result, "train: --attention does not go with --resume");
    write_text(other, "another text, long enough for a context of sixteen symbols and its held-out tail; another text, "
                      "long enough for a context of sixteen symbols and its held-out tail, and then some more of it.");
    run((const char *[]){dropin, "train", "--data", other, "--resume", path, NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "other.txt");
    run(line(argv, "train", NULL, "--resume", path, "--held-out", "0.2", NULL));
    assert_code(&result, 2);
    assert_err_has(&result, "this split has");
}

/* ---- what is wrong is named
 * --------------------------------------------------------------------------------------------- */

static void test_bad_input_is_named(void **state) {
    (void)state;
    static const struct {
        const char *const words[6];
        int code;
        const char *message;
    } rows[] = {{{"--threads", "0"}, 2, "threads"},
                {{"--attention", "sigmod"}, 2, "sigmoid"},
                {{"--attention", "sigmoid:bias=abc"}, 2, "bias"},
                {{"--attention", "sigmoid:bais=0"}, 2, "did you mean"},
                {{"--attention", "sigmoid:bias=nan"}, 2, "bias"},
                {{"--width", "15"}, 2, "gpt: width=15 is not a multiple of heads=2"},
                {{"--heads", "16"}, 2, "head dimension of 1; rope=on wants an even one"},
                {{"--context", "100000"}, 2, "100000"},
                {{"--optimizer", "adamq"}, 2, "adamw"},
                {{"--setps", "5"}, 2, "--steps"},
                {{"--checkpoint", "/nowhere/at/all"}, 1, "/nowhere/at/all"},
                {{"--checkpoint", "/dev/full"}, 2, "/dev/full is not a regular file"},
                {{"--resume", "/nowhere/at/all"}, 2, "does not go with --resume"},
                {{"one", "word"}, 2, "one"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *const *w = rows[i].words;
        run(line(argv, "train", tiny, w[0], w[1], w[2], w[3], w[4], w[5], NULL));
        assert_code(&result, rows[i].code);
        assert_err_has(&result, rows[i].message);
        assert_int_equal(result.out_bytes, 0);
    }
    run(line(argv, "train", NULL, "--resume", "/nowhere/at/all", NULL));
    assert_code(&result, 1);
    assert_err_has(&result, "/nowhere/at/all");
}

static void test_bad_data_are_named(void **state) {
    (void)state;
    char empty[SCRATCH_PATH], small[SCRATCH_PATH];
    scratch_path("empty.txt", empty);
    scratch_path("small.txt", small);
    write_text(empty, "");
    write_text(small, "a text of no length");
    run((const char *[]){dropin, "train", "--data", empty, NULL});
    assert_code(&result, 1);
    assert_err_has(&result, "empty.txt");
    run((const char *[]){dropin, "train", "--data", small, NULL});
    assert_code(&result, 2);
    assert_err_has(&result, "128");
    run((const char *[]){dropin, "train", "--data", "/nowhere/text", NULL});
    assert_code(&result, 1);
    assert_err_has(&result, "/nowhere/text");
}

static void test_damaged_checkpoints_are_refused(void **state) {
    (void)state;
    char path[SCRATCH_PATH], broken[SCRATCH_PATH];
    scratch_path("whole", path);
    scratch_path("broken", broken);
    run(line(argv, "train", tiny, "--checkpoint", path, "--steps", "2", NULL));
    assert_code(&result, 0);
    static char bytes[1 << 20];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_true(count > 1000 && count < sizeof bytes);
    char *version = strstr(bytes + 8, "\"dropin.checkpoint\":\"1\"");
    assert_non_null(version);
    static const struct {
        const char *what, *message;
    } rows[] = {{"cut", "broken"}, {"header", "broken"}, {"version", "has version 9; this library reads version 1"}};
    for (size_t i = 0; i < 3; i++) {
        size_t written = i == 0 ? count - 100 : count;
        if (i == 1)
            bytes[1] ^= 0x40; /* the header's length */
        if (i == 2) {
            bytes[1] ^= 0x40;
            version[strlen("\"dropin.checkpoint\":\"")] = '9';
        }
        file = fopen(broken, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(bytes, 1, written, file), written);
        fclose(file);
        run(line(argv, "train", NULL, "--resume", broken, NULL));
        assert_code(&result, 1);
        assert_err_has(&result, rows[i].message);
        run((const char *[]){dropin, "generate", "--checkpoint", broken, NULL});
        assert_code(&result, 1);
        assert_err_has(&result, rows[i].message);
        run(line(argv, "eval", NULL, "--checkpoint", broken, NULL));
        assert_code(&result, 1);
        assert_err_has(&result, rows[i].message);
    }
}

static void test_a_full_disk_leaves_the_old_checkpoint(void **state) {
    (void)state;
    char path[SCRATCH_PATH], copy[SCRATCH_PATH];
    scratch_path("old", path);
    scratch_path("copy", copy);
    run(line(argv, "train", tiny, "--checkpoint", path, "--steps", "2", NULL));
    assert_code(&result, 0);
    run(line(argv, "train", tiny, "--checkpoint", copy, "--steps", "2", NULL));
    assert_code(&result, 0);
    const process_start full = {.file_bytes = 4096};
    int64_t entries = folder_entries(scratch_folder());
    process_run(&full, line(argv, "train", tiny, "--checkpoint", path, "--seed", "8", NULL), &result);
    assert_code(&result, 1);
    assert_err_has(&result, path);
    assert_true(same_files(path, copy));
    assert_int_equal(folder_entries(scratch_folder()), entries); /* no half file is left */
}

/* ---- plan
 * ---------------------------------------------------------------------------------------------------------------- */

/* The number in the row of `out` that begins with `label`. */
static double number_after(const char *out, const char *label) {
    const char *at = strstr(out, label);
    if (!at)
        fail_msg("no \"%s\" in: %s", label, out);
    return strtod(at + strlen(label), NULL);
}

/* The cell number `column` (from 0) of the table's row that begins with `first`. Cells are two or more blanks apart. */
static double cell(const char *out, const char *first, int column) {
    const char *at = strstr(out, first);
    if (!at)
        fail_msg("no \"%s\" in: %s", first, out);
    for (int i = 0; i < column; i++) {
        at = strstr(at, "  ");
        assert_non_null(at);
        at += strspn(at, " ");
    }
    return strtod(at, NULL);
}

static void test_plan_is_what_a_run_takes(void **state) {
    (void)state;
    static const char *const parts[] = {"softmax", "sigmoid:train_bias=on"};
    setenv("COLUMNS", "400", 1); /* tables in one piece */
    for (int i = 0; i < 2; i++) {
        run(line(argv, "plan", tiny, "--attention", parts[i], "--steps", "12", NULL));
        assert_code(&result, 0);
        double peak = number_after(result.out, "peak of training"), parameters = number_after(result.out, "parameters");
        double step = number_after(result.out, "\na step"), forward = number_after(result.out, "forward");
        assert_true(number_after(result.out, "12 steps") == 12 * step);
        /* keys and values of 16 tokens of 16 features, 4 bytes each, and what the state notes beside them */
        double cache = number_after(result.out, "cache of a sequence of 16 tokens");
        assert_true(cache >= 2 * 16 * 16 * 4 && cache < 2 * 16 * 16 * 4 + 1024);

        run(line(argv, "train", tiny, "--attention", parts[i], "--steps", "12", NULL));
        assert_code(&result, 0);
        const char *row = strstr(result.out, parts[i]);
        assert_non_null(row);
        assert_true(cell(row, parts[i], 5) == peak);
        assert_true(cell(row, parts[i], 6) * 4 == parameters);
        assert_true(cell(row, parts[i], 7) == step / (4 * 16));

        /* By hand: width 16, 1 layer, 64 rows. What is not a weight of 16 columns: three norms, the trained bias. */
        double weights = (parameters / 4 - 3 * 2 * 16 - (i == 1 ? 1 : 0)) / 16;
        double symbols = (weights - (3 * 16 + 16 + 64 + 64)) / 2;
        assert_true(symbols == 18); /* digits, blank, stop, line break, t i m e s */
        double linear = 2 * 64.0 * 16 * (3 * 16 + 16 + 2 * 64 + symbols);
        double attention = 4 * 4 * 2 * (16 * 17 / 2) * 8.0; /* batch, heads, pairs, head dimension */
        assert_true(forward == linear + attention);
        assert_true(step == 3 * linear + 3.5 * attention);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kill_9_then_resume_gives_the_same_bytes),
                                       cmocka_unit_test(test_kill_9_with_codes_and_projections),
                                       cmocka_unit_test(test_ctrl_c_saves_and_says_so),
                                       cmocka_unit_test(test_resume_follows_the_checkpoint),
                                       cmocka_unit_test(test_bad_input_is_named),
                                       cmocka_unit_test(test_bad_data_are_named),
                                       cmocka_unit_test(test_damaged_checkpoints_are_refused),
                                       cmocka_unit_test(test_a_full_disk_leaves_the_old_checkpoint),
                                       cmocka_unit_test(test_plan_is_what_a_run_takes)};
    return cmocka_run_group_tests(tests, make_data, remove_data);
}
