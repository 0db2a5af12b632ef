/* SPDX-License-Identifier: Apache-2.0 */
/* dropin_main: finds the command, fills its options from the command line, runs it, and turns what comes back into an
 * exit code. Signals and the execution context are here, too. */
#include "cli/cli.h"
#include <dropin/attention.h>
#include <dropin/command.h>
#include <dropin/optimizer.h>

#include "cli/options.h"
#include "models/gpt.h"
#include "models/window.h"
#include "optimizer/projector.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* ---- Ctrl-C ------------------------------------------------------------------------------------------------------ */

/* A handler can reach nothing but a variable of the file. */
static volatile sig_atomic_t interrupted;

static void note_signal(int number) {
    (void)number;
    interrupted = 1;
}

bool di_cli_interrupted(void) { return interrupted != 0; }

static bool go_on(void *user, double fraction) {
    (void)user;
    (void)fraction;
    return interrupted == 0;
}

di_status di_cli_exec(di_cli *cli, int64_t threads, di_exec *exec) {
    (void)cli;
    di_status status = di_exec_init(exec);
    if (status)
        return status;
    if (threads != INT64_MIN)
        exec->threads = (int32_t)threads;
    exec->progress = go_on;
    /* The first signal asks, the second one kills: the handler goes once it was used. */
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    const int numbers[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < 2; i++) {
        struct sigaction old;
        /* A shell starts background jobs with SIGINT ignored; that is left alone. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(numbers[i], &action, NULL);
    }
    return DI_OK;
}

/* ---- exit codes -------------------------------------------------------------------------------------------------- */

int di_cli_report(di_cli *cli, di_status status) {
    if (status == DI_OK)
        return DI_EXIT_OK;
    if (status == DI_ECANCELLED) {
        fputs("dropin: interrupted\n", cli->err);
        return DI_EXIT_INTERRUPTED;
    }
    fprintf(cli->err, "dropin: %s\n", di_message());
    switch (status) {
    case DI_EINVAL:
    case DI_ERANGE:
    case DI_ENAME:
    case DI_EUNSUPPORTED:
    case DI_ESHAPE:
    case DI_EDTYPE:
        return DI_EXIT_USAGE;
    default:
        return DI_EXIT_FAILED;
    }
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

enum { NAME_BYTES = 64 };

/* The row that `name` (of `bytes` bytes, - for _) means, and the struct that it fills. */
static const di_option *find_row(const di_command *command, void *options, const char *name, void **base) {
    const di_option_block own[] = {{command->options, 0}, {NULL, 0}};
    const di_option_block *lists[] = {own, command->blocks};
    for (size_t list = 0; list < 2; list++)
        for (const di_option_block *block = lists[list]; block && block->rows; block++) {
            const di_option *row = di_option_find(block->rows, name, strlen(name));
            if (row) {
                *base = (char *)options + block->offset;
                return row;
            }
        }
    return NULL;
}

static di_status unknown_option(const di_command *command, const char *name, const char *given, int32_t bytes) {
    const char *names[256];
    int64_t count = 0;
    const di_option_block own[] = {{command->options, 0}, {NULL, 0}};
    const di_option_block *lists[] = {own, command->blocks};
    for (size_t list = 0; list < 2; list++)
        for (const di_option_block *block = lists[list]; block && block->rows; block++)
            for (const di_option *row = block->rows; row->name && count < 255; row = di_option_after(row))
                names[count++] = row->name;
    names[count++] = "help";
    const char *nearest = di_nearest(name, names, count);
    if (!nearest)
        return di_fail(DI_ENAME, "%s: no option --%.*s", command->name, bytes, given);
    char dashed[NAME_BYTES];
    di_option_spell(nearest, dashed, sizeof dashed);
    return di_fail(DI_ENAME, "%s: no option --%.*s; did you mean --%s?", command->name, bytes, given, dashed);
}

/* One option at argv[at]; *used becomes 1 or 2. */
static di_status take_option(const di_command *command, void *options, int left, char **argv, int *used) {
    const char *given = argv[0] + 2;
    const char *equals = strchr(given, '=');
    size_t bytes = equals ? (size_t)(equals - given) : strlen(given);
    char name[NAME_BYTES];
    if (bytes >= sizeof name)
        return di_fail(DI_ENAME, "%s: no option --%s", command->name, given);
    for (size_t i = 0; i < bytes; i++)
        name[i] = given[i] == '-' ? '_' : given[i];
    name[bytes] = 0;
    void *base = NULL;
    const di_option *row = find_row(command, options, name, &base);
    const char *value = equals ? equals + 1 : NULL;
    if (!row && !value && strncmp(name, "no_", 3) == 0) {
        row = find_row(command, options, name + 3, &base);
        if (row && row->type != DI_BOOL)
            row = NULL;
        value = "off";
    }
    if (!row)
        return unknown_option(command, name, given, (int32_t)bytes);
    *used = 1;
    if (!value && row->type == DI_BOOL)
        value = "on";
    if (!value) {
        if (left < 2 || strncmp(argv[1], "--", 2) == 0)
            return di_fail(DI_EINVAL, "%s: --%s needs a value", command->name, given);
        value = argv[1];
        *used = 2;
    }
    const di_option one[] = {*row, {0}};
    return di_options_set(command->name, one, base, row->name, strlen(row->name), value, strlen(value));
}

static di_status fill_defaults(const di_command *command, void *options) {
    memset(options, 0, command->options_size);
    const di_option_block own[] = {{command->options, 0}, {NULL, 0}};
    const di_option_block *lists[] = {command->blocks, own};
    for (size_t list = 0; list < 2; list++)
        for (const di_option_block *block = lists[list]; block && block->rows; block++) {
            di_status status = di_options_defaults(command->name, block->rows, (char *)options + block->offset);
            if (status)
                return status;
        }
    return DI_OK;
}

/* Fills options and collects the words (into `word`, room for argc). */
static di_status read_line(const di_command *command, int argc, char **argv, void *options, int32_t *words,
                           char **word) {
    bool only_words = false;
    for (int i = 0; i < argc;) {
        if (only_words || argv[i][0] != '-' || argv[i][1] == 0) {
            word[(*words)++] = argv[i++];
            continue;
        }
        if (strcmp(argv[i], "--") == 0) {
            only_words = true;
            i++;
            continue;
        }
        if (argv[i][1] != '-')
            return di_fail(DI_ENAME, "%s: no option %s (options begin with --)", command->name, argv[i]);
        int used = 1;
        di_status status = take_option(command, options, argc - i, argv + i, &used);
        if (status)
            return status;
        i += used;
    }
    if (*words < command->min_words)
        return di_fail(DI_EINVAL, "%s: a word is missing; usage: dropin %s", command->name, command->usage);
    if (command->max_words >= 0 && *words > command->max_words)
        return di_fail(DI_EINVAL, "%s: one word too many: %s", command->name, word[command->max_words]);
    return command->check ? command->check(options) : DI_OK;
}

static int run_command(di_cli *cli, const di_command *command, int argc, char **argv) {
    void *options = malloc(command->options_size ? command->options_size : 1);
    char **word = malloc(sizeof *word * (size_t)(argc + 1));
    int32_t words = 0;
    di_status status = DI_OK;
    int code = DI_EXIT_OK;
    if (!options || !word)
        status = di_fail(DI_ENOMEM, "%s: out of memory for the command line", command->name);
    if (!status)
        status = fill_defaults(command, options);
    if (!status)
        status = read_line(command, argc, argv, options, &words, word);
    if (status) {
        code = di_cli_report(cli, status);
        if (code == DI_EXIT_USAGE)
            fprintf(cli->err, "`dropin help %s` shows its options.\n", command->name);
    } else {
        code = command->run(cli, options, words, word);
    }
    free(word);
    free(options);
    return code;
}

static int unknown_command(di_cli *cli, const char *name) {
    const char *names[64];
    int64_t count = 0;
    while (di_commands[count] && count < 64) {
        names[count] = di_commands[count]->name;
        count++;
    }
    const char *nearest = di_nearest(name, names, count);
    if (nearest)
        fprintf(cli->err, "dropin: no command \"%s\"; did you mean \"%s\"?\n", name, nearest);
    else
        fprintf(cli->err, "dropin: no command \"%s\"\n", name);
    fputs("`dropin help` lists the commands.\n", cli->err);
    return DI_EXIT_USAGE;
}

static bool asks_for(int argc, char **argv, const char *a, const char *b) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], a) == 0 || strcmp(argv[i], b) == 0)
            return true;
    return false;
}

static int dispatch(di_cli *cli, int argc, char **argv) {
    const di_command *help = di_command_find("help");
    const di_command *command = argc > 1 ? di_command_find(argv[1]) : NULL;
    if (argc > 1 && asks_for(argc - 1, argv + 1, "--help", "-h"))
        return run_command(cli, help, command ? 1 : 0, argv + 1);
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0))
        return run_command(cli, di_command_find("version"), argc - 2, argv + 2);
    if (command)
        return run_command(cli, command, argc - 2, argv + 2);
    if (argc > 1)
        return unknown_command(cli, argv[1]);
    run_command(cli, help, 0, argv);
    return DI_EXIT_USAGE;
}

/* ---- the terminal --------------------------------------------------------------------------------------------------
 */

static int32_t terminal_columns(bool terminal) {
    const char *text = getenv("COLUMNS");
    struct winsize size;
    if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col < 40 ? 40 : size.ws_col;
    if (text && atoi(text) >= 40)
        return atoi(text);
    return 80;
}

bool di_cli_flush(di_cli *cli) {
    errno = 0;
    bool failed = fflush(cli->out) != 0;
    if (failed && !cli->out_error)
        cli->out_error = errno;
    return !failed && !ferror(cli->out);
}

/* What was printed must have arrived, or the exit code says that it did not. */
static int finish(di_cli *cli, int code) {
    if (di_cli_flush(cli))
        return code;
    fprintf(cli->err, "dropin: cannot write the results: %s\n",
            cli->out_error ? strerror(cli->out_error) : "a write failed");
    return code == DI_EXIT_OK ? DI_EXIT_FAILED : code;
}

int dropin_main(int argc, char **argv, const di_part *const *parts, int64_t count) {
    di_cli cli = {.out = stdout, .err = stderr};
    interrupted = 0;
    cli.out_terminal = isatty(STDOUT_FILENO);
    cli.err_terminal = isatty(STDERR_FILENO);
    const char *no_color = getenv("NO_COLOR"), *terminal = getenv("TERM");
    cli.color = cli.out_terminal && !(no_color && no_color[0]) && !(terminal && strcmp(terminal, "dumb") == 0);
    cli.columns = terminal_columns(cli.out_terminal);

    int64_t attentions = 0, optimizers = 0, projectors = 0, total = 0;
    const di_attention *const *attention = di_attention_list(&attentions);
    const di_optimizer *const *optimizer = di_optimizer_list(&optimizers);
    const di_projector *const *projector = di_projector_list(&projectors);
    const di_part **list = malloc(sizeof *list * (size_t)(attentions + optimizers + projectors + count + 2));
    if (!list) {
        fputs("dropin: out of memory for the list of parts\n", stderr);
        return DI_EXIT_FAILED;
    }
    for (int64_t i = 0; i < attentions; i++)
        list[total++] = &attention[i]->part;
    for (int64_t i = 0; i < optimizers; i++)
        list[total++] = &optimizer[i]->part;
    for (int64_t i = 0; i < projectors; i++)
        list[total++] = &projector[i]->part;
    list[total++] = &di_gpt_part;
    list[total++] = &di_window_part;
    for (int64_t i = 0; i < count; i++)
        list[total++] = parts[i];
    cli.parts = list;
    cli.parts_count = total;

    struct sigaction before[2];
    sigaction(SIGINT, NULL, &before[0]);
    sigaction(SIGTERM, NULL, &before[1]);
    int code = finish(&cli, dispatch(&cli, argc, argv));
    sigaction(SIGINT, &before[0], NULL);
    sigaction(SIGTERM, &before[1], NULL);
    free(list);
    return code;
}
