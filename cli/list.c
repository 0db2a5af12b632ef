/* SPDX-License-Identifier: Apache-2.0 */
/* dropin list [SLOT]: every part, by slot. */
#include "cli/cli.h"
#include <dropin/optimizer.h>
#include <string.h>

static bool first_of_slot(const di_cli *cli, int64_t index) {
    for (int64_t i = 0; i < index; i++)
        if (strcmp(cli->parts[i]->slot, cli->parts[index]->slot) == 0)
            return false;
    return true;
}

static int unknown_slot(di_cli *cli, const char *slot) {
    const char *names[64];
    int64_t count = 0;
    for (int64_t i = 0; i < cli->parts_count && count < 64; i++)
        if (first_of_slot(cli, i))
            names[count++] = cli->parts[i]->slot;
    const char *nearest = di_nearest(slot, names, count);
    di_status status = nearest ? di_fail(DI_ENAME, "list: no slot \"%s\"; did you mean \"%s\"?", slot, nearest)
                               : di_fail(DI_ENAME, "list: no slot \"%s\"; `dropin list` shows them all", slot);
    return di_cli_report(cli, status);
}

/* Whether something replaces the part. */
static bool is_replaced(const di_cli *cli, const di_part *part) {
    for (int64_t i = 0; i < cli->parts_count; i++)
        if (cli->parts[i]->replaces && strcmp(cli->parts[i]->slot, part->slot) == 0 &&
            strcmp(cli->parts[i]->replaces, part->name) == 0)
            return true;
    return false;
}

static void print_entry(di_cli *cli, const char *name, const char *text) {
    enum { HELP_AT = 14 };
    int32_t at = fprintf(cli->out, "  %s", name);
    if (at + 2 > HELP_AT) {
        fputc('\n', cli->out);
        at = 0;
    }
    fprintf(cli->out, "%*s", HELP_AT - at, "");
    di_print_wrapped(cli->out, cli->columns, HELP_AT, HELP_AT, text);
}

static void print_part(di_cli *cli, const di_part *part) {
    char text[1024];
    const char *paper = part->paper && part->paper[0] ? part->paper : NULL;
    const char *role = part->replaces ? "replaces " : is_replaced(cli, part) ? "the standard part" : "";
    bool has_role = role[0] != 0;
    snprintf(text, sizeof text, "%s%s%s%s%s%s%s", part->help ? part->help : "", has_role || paper ? " (" : "", role,
             part->replaces ? part->replaces : "", has_role && paper ? "; " : "", paper ? paper : "",
             has_role || paper ? ")" : "");
    print_entry(cli, part->name, text);
}

/* The usual names that stand for an optimizer with options. */
static void print_aliases(di_cli *cli) {
    int64_t count = 0;
    const di_optimizer_alias *alias = di_optimizer_aliases(&count);
    for (int64_t i = 0; i < count; i++) {
        char text[1024];
        snprintf(text, sizeof text, "stands for %s", alias[i].text);
        print_entry(cli, alias[i].name, text);
    }
}

static int run(di_cli *cli, const void *options, int32_t words, char **word) {
    (void)options;
    bool found = false;
    for (int64_t s = 0; s < cli->parts_count; s++) {
        const char *slot = cli->parts[s]->slot;
        if (!first_of_slot(cli, s) || (words && strcmp(slot, word[0]) != 0))
            continue;
        fprintf(cli->out, "%s%s%s%s\n", found ? "\n" : "", cli->color ? "\033[1m" : "", slot,
                cli->color ? "\033[0m" : "");
        found = true;
        for (int64_t i = s; i < cli->parts_count; i++)
            if (strcmp(cli->parts[i]->slot, slot) == 0)
                print_part(cli, cli->parts[i]);
        if (strcmp(slot, "optimizer") == 0)
            print_aliases(cli);
    }
    return found || !words ? DI_EXIT_OK : unknown_slot(cli, word[0]);
}

static const di_option rows[] = {{0}};

const di_command di_command_list = {
    .name = "list",
    .usage = "list [SLOT]",
    .help = "the parts, by slot",
    .details = "Each slot has one standard part; the others replace it behind the same interface. `dropin help PART` "
               "shows a part's options. Usual names that stand for a part with options follow the parts.",
    .options = rows,
    .max_words = 1,
    .run = run,
};
