/* SPDX-License-Identifier: Apache-2.0 */
/* dropin --version: what this build is, what this machine gives it and why. */
#include "cli/cli.h"
#include <string.h>
#include <zlib.h>

static int run(di_cli *cli, const void *options, int32_t words, char **word) {
    (void)options;
    (void)words;
    (void)word;
    fprintf(cli->out, "dropin %s\n", di_version());
    di_exec exec;
    di_status status = di_exec_init(&exec);
    if (status)
        return di_cli_report(cli, status);
    fputs("levels     ", cli->out);
    for (int32_t level = 0; level < DI_LEVELS; level++)
        if (di_level_supported((di_level)level))
            fprintf(cli->out, "%s ", di_level_name((di_level)level));
    fprintf(cli->out, "(chosen: %s; DROPIN_CPU=NAME overrides)\n", di_level_name(exec.level));
    di_threads_info info = {.size = sizeof info};
    status = di_threads_available(&info);
    if (status)
        return di_cli_report(cli, status);
    fprintf(cli->out, "threads    %s\n", info.source);
    fprintf(cli->out, "compiler   %s\n", DI_COMPILER);
    const char *line = di_libraries();
    for (bool first = true; *line; first = false) {
        size_t bytes = strcspn(line, "\n");
        fprintf(cli->out, "%-11s%.*s\n", first ? "libraries" : "", (int)bytes, line);
        line += bytes + (line[bytes] == '\n');
    }
    fprintf(cli->out, "%-11szlib %s\n", "", zlibVersion()); /* the command's own */
    return DI_EXIT_OK;
}

static const di_option rows[] = {{0}};

const di_command di_command_version = {
    .name = "version",
    .usage = "version",
    .help = "version, kernel levels, threads and libraries (also --version)",
    .details = "Threads: the processor affinity of the process, limited by the container's quota; --threads N of the "
               "other commands overrides.",
    .options = rows,
    .run = run,
};
