/* SPDX-License-Identifier: Apache-2.0 */
/* A comparison with progress on the terminal and a journal on disk. */
#include "cli/compare.h"
#include "cli/journal.h"
#include <stdio.h>
#include <unistd.h>

typedef struct session {
    di_cli *cli;
    const char *label;
    const di_comparison_settings *settings;
    di_journal journal;
    di_progress progress;
    bool began;
    int64_t to_train, trained; /* runs */
} session;

static bool recall(void *user, di_comparison_run *run) {
    session *s = user;
    bool known = di_journal_recall(&s->journal, run);
    s->to_train += !known;
    return known;
}

static void stepped(void *user, const di_comparison_run *run, int64_t step, double loss) {
    session *s = user;
    int64_t steps = s->settings->base.schedule.steps;
    if (!s->began)
        di_progress_begin(&s->progress, s->cli, s->label, s->to_train * steps);
    s->began = true;
    char note[320];
    snprintf(note, sizeof note, "%s seed %lld loss %.3f", di_comparison_label(&s->settings->parts[run->part]),
             (long long)(s->settings->first_seed + (uint64_t)run->seed), loss);
    di_progress_update(&s->progress, s->trained * steps + step, note);
}

/* A message must not land in the line of progress. */
static void say(session *s, const char *what) {
    if (s->began)
        di_progress_end(&s->progress);
    fprintf(s->cli->err, "%s: %s (%s)\n", s->label, what, di_message());
}

/* How much of the work an earlier start has left. */
static void say_resumed(session *s) {
    const di_comparison_settings *settings = s->settings;
    int64_t known = 0;
    for (int32_t part = 0; part < settings->parts_count; part++)
        for (int32_t rate = 0; rate < settings->rates_count; rate++)
            for (int32_t seed = 0; seed < settings->seeds; seed++)
                known += di_journal_recall(&s->journal, &(di_comparison_run){.part = part, .rate = rate, .seed = seed});
    if (known)
        fprintf(s->cli->err, "%s: goes on; %lld of %lld runs were finished before (%s; --fresh trains them anew)\n",
                s->label, (long long)known,
                (long long)(settings->parts_count * settings->rates_count * settings->seeds), s->journal.path);
}

static di_status finished(void *user, const di_comparison_run *run) {
    session *s = user;
    s->trained++;
    if (di_journal_append(&s->journal, run) != DI_OK)
        say(s, "a finished run could not be kept for later");
    return DI_OK;
}

static int64_t resident(void *user) {
    (void)user;
    long long pages = 0, whole = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file)
        return 0;
    if (fscanf(file, "%lld %lld", &whole, &pages) != 2)
        pages = 0;
    fclose(file);
    return (int64_t)pages * (int64_t)sysconf(_SC_PAGESIZE);
}

di_status di_compare_run(di_cli *cli, const di_exec *exec, const char *label, bool fresh,
                         di_comparison_settings *settings, di_comparison *comparison) {
    session s = {.cli = cli, .label = label, .settings = settings};
    settings->recall = recall;
    settings->stepped = stepped;
    settings->finished = finished;
    settings->resident = resident;
    settings->user = &s;
    if (di_journal_open(exec, settings, fresh, &s.journal) != DI_OK)
        say(&s, "no journal, so this cannot be resumed when it is interrupted");
    say_resumed(&s);
    di_status status = di_comparison_train(exec, settings, comparison);
    if (s.began)
        di_progress_end(&s.progress);
    di_journal_close(&s.journal, false);
    return status;
}

void di_compare_forget(const di_exec *exec, const di_comparison *comparison) {
    di_journal journal;
    if (di_journal_open(exec, &comparison->settings, false, &journal) == DI_OK)
        di_journal_close(&journal, true);
}
