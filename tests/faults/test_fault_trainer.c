/* SPDX-License-Identifier: Apache-2.0 */
/* Training under failure: every allocation and every file call fails once, and a process that is killed at any moment
 * goes on to the bytes of the run that was left alone. */
#include "support/trainer.h"
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

/* A life: create, step, evaluate, save, resume, step, read the model alone. */
static di_status live(const di_exec *exec, const di_trainer_config *config, const char *path) {
    di_trainer *trainer = NULL, *again = NULL;
    di_gpt *gpt = NULL;
    di_text_data *vocabulary = NULL;
    double loss;
    di_status status = di_trainer_create(exec, config, small_text, &trainer);
    if (!status)
        status = di_trainer_step(trainer, NULL);
    if (!status)
        status = di_trainer_evaluate(trainer, 0, 1, &loss);
    if (!status)
        status = di_trainer_save(trainer, path);
    di_trainer_destroy(trainer);
    if (!status)
        status = di_trainer_resume(exec, path, NULL, 0, small_text, &again);
    if (!status)
        status = di_trainer_step(again, NULL);
    di_trainer_destroy(again);
    if (!status)
        status = di_checkpoint_model(exec, path, NULL, 0, &gpt, &vocabulary);
    di_gpt_destroy(gpt);
    di_text_close(vocabulary);
    return status;
}

static void every_allocation_fails_once(void **state) {
    (void)state;
    di_trainer_config config = small_config();
    di_status status = DI_ENOMEM;
    int64_t at = 0;
    for (; status; at++) {
        di_memory memory;
        check(di_memory_init(&memory, NULL, DI_MEMORY_GUARD | DI_MEMORY_POISON));
        memory.fail_at = at;
        di_exec exec = base;
        exec.allocator = &memory.allocator;
        status = live(&exec, &config, path_of("life"));
        if (memory.current != 0 || memory.violations != 0)
            fail_msg("allocation %lld failed: %lld bytes left, %lld zones overwritten", (long long)at,
                     (long long)memory.current, (long long)memory.violations);
        if (status && status != DI_ENOMEM)
            fail_msg("allocation %lld failed: %s", (long long)at, di_message());
    }
    print_message("%lld allocations\n", (long long)at - 1);
    assert_true(at > 50);
}

static int files_in_folder(void) {
    int count = 0;
    DIR *open = opendir(folder);
    assert_non_null(open);
    while (readdir(open))
        count++;
    closedir(open);
    return count;
}

static void every_file_call_of_a_save_fails_once(void **state) {
    (void)state;
    static const int errors[] = {ENOSPC, EIO};
    di_trainer_config config = small_config();
    for (int e = 0; e < 2; e++) {
        di_faulty_files faulty;
        check(di_faulty_files_init(&faulty));
        faulty.fail_at = -1;
        faulty.error = errors[e];
        di_exec exec = base;
        exec.files = &faulty.files;
        di_trainer *trainer = create(&exec, &config);
        step_to(trainer, 2);
        check(di_trainer_save(trainer, path_of("old")));
        step_to(trainer, 4);
        check(di_trainer_save(trainer, path_of("new")));
        int files = 0;
        di_status status = DI_EIO;
        int64_t at = 0;
        for (; status; at++) {
            di_trainer *older = resume(&base, path_of("old"));
            check(di_trainer_save(older, path_of("checkpoint")));
            di_trainer_destroy(older);
            files = files_in_folder();
            faulty.calls = 0;
            faulty.fail_at = at;
            status = di_trainer_save(trainer, path_of("checkpoint"));
            faulty.fail_at = -1;
            assert_int_equal(files_in_folder(), files); /* no litter */
            bool old = same_files(path_of("checkpoint"), path_of("old"));
            bool renewed = same_files(path_of("checkpoint"), path_of("new"));
            if (status == DI_OK) {
                assert_true(renewed);
                break;
            }
            assert_int_equal(status, DI_EIO);
            assert_non_null(strstr(di_message(), path_of("checkpoint")));
            assert_non_null(strstr(di_message(), strerror(errors[e])));
            assert_true(old || renewed); /* the last call syncs the folder: the new file is there by then */
            di_trainer_destroy(resume(&base, path_of("checkpoint")));
        }
        assert_true(at >= 4); /* open, write, sync, rename at least */
        di_trainer_destroy(trainer);
    }
}

static void every_file_call_of_a_resume_fails_once(void **state) {
    (void)state;
    di_trainer_config config = small_config();
    di_trainer *trainer = create(&base, &config);
    check(di_trainer_save(trainer, path_of("old")));
    di_trainer_destroy(trainer);
    di_status status = DI_EIO;
    for (int64_t at = 0; status; at++) {
        di_faulty_files faulty;
        check(di_faulty_files_init(&faulty));
        faulty.fail_at = at;
        faulty.error = EIO;
        di_memory memory;
        check(di_memory_init(&memory, NULL, 0));
        di_exec exec = base;
        exec.files = &faulty.files;
        exec.allocator = &memory.allocator;
        di_trainer *read = NULL;
        status = di_trainer_resume(&exec, path_of("old"), NULL, 0, small_text, &read);
        assert_true(status == DI_EIO || (status == DI_OK && at >= 2));
        di_trainer_destroy(read);
        assert_int_equal(memory.current, 0);
    }
}

/* ---- kill -9 ---------------------------------------------------------------------------------------------------- */

enum { LENGTH = 150, EVERY = 2, KILLS = 25 };

/* Goes on from the checkpoint, or begins; saves every other step. Runs in a child: no assertion may return. */
static void train_to_the_end(const di_trainer_config *config, const char *path) {
    di_trainer *trainer = NULL;
    di_status status = access(path, F_OK) == 0 ? di_trainer_resume(&base, path, NULL, 0, small_text, &trainer)
                                               : di_trainer_create(&base, config, small_text, &trainer);
    while (!status && di_trainer_steps(trainer) < LENGTH) {
        status = di_trainer_step(trainer, NULL);
        if (!status && di_trainer_steps(trainer) % EVERY == 0)
            status = di_trainer_save(trainer, path);
    }
    if (status)
        fprintf(stderr, "child: %s\n", di_message());
    _exit(status != DI_OK);
}

static void wait_a_little(double seconds) {
    struct timespec time = {.tv_nsec = (long)(seconds * 1e9)};
    nanosleep(&time, NULL);
}

static void killed_runs_end_like_the_one_left_alone(void **state) {
    (void)state;
    di_trainer_config config = small_config();
    config.model.gpt.dropout = 0.1;
    di_trainer *alone = create(&base, &config);
    step_to(alone, LENGTH);
    check(di_trainer_save(alone, path_of("alone")));
    di_trainer_destroy(alone);
    int killed = 0, result = -1;
    for (uint64_t life = 0; result != 0; life++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            train_to_the_end(&config, path_of("killed"));
        if (killed < KILLS) {
            wait_a_little(0.02 * di_random_uniform(11, 0, 0, life));
            kill(child, SIGKILL);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        killed += WIFSIGNALED(status) != 0;
        if (WIFEXITED(status)) {
            result = WEXITSTATUS(status);
            assert_int_equal(result, 0);
        }
    }
    print_message("killed %d times\n", killed);
    assert_true(killed >= 3);
    assert_same_files(path_of("killed"), path_of("alone"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once),
                                       cmocka_unit_test(every_file_call_of_a_save_fails_once),
                                       cmocka_unit_test(every_file_call_of_a_resume_fails_once),
                                       cmocka_unit_test(killed_runs_end_like_the_one_left_alone)};
    return cmocka_run_group_tests(tests, start_folder, end_folder);
}
