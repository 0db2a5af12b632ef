/* SPDX-License-Identifier: Apache-2.0 */
/* dropin help [PART|COMMAND|SLOT]: everything comes from the records. */
#include "cli/options.h"
#include <dropin/optimizer.h>
#include <string.h>

static const char *bold(const di_cli *cli) { return cli->color ? "\033[1m" : ""; }
static const char *plain(const di_cli *cli) { return cli->color ? "\033[0m" : ""; }

static void overview(di_cli *cli) {
    FILE *out = cli->out;
    enum { AT = 14 };
    fprintf(out, "dropin %s: drop-in replacements for the standard parts of deep learning\n\n", di_version());
    fprintf(out, "%sUsage%s\n  dropin COMMAND [WORD]... [--option VALUE]...\n\n%sCommands%s\n", bold(cli), plain(cli),
            bold(cli), plain(cli));
    for (int32_t i = 0; di_commands[i]; i++) {
        fprintf(out, "  %-*s", AT - 2, di_commands[i]->name);
        di_print_wrapped(out, cli->columns, AT, AT, di_commands[i]->help);
    }
    fprintf(out, "\n%sParts%s\n", bold(cli), plain(cli));
    for (int64_t s = 0; s < cli->parts_count; s++) {
        const char *slot = cli->parts[s]->slot;
        bool seen = false;
        for (int64_t i = 0; i < s; i++)
            seen |= strcmp(cli->parts[i]->slot, slot) == 0;
        if (seen)
            continue;
        char names[1024] = "";
        for (int64_t i = s; i < cli->parts_count; i++)
            if (strcmp(cli->parts[i]->slot, slot) == 0)
                snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", names[0] ? ", " : "",
                         cli->parts[i]->name);
        fprintf(out, "  %-*s", AT - 2, slot);
        di_print_wrapped(out, cli->columns, AT, AT, names);
    }
    fprintf(out,
            "\n`dropin help NAME` tells more about a command or a part.\n\n"
            "%sExit codes%s\n"
            "  0             done\n"
            "  1             failed: files, memory, a claim that did not hold\n"
            "  2             bad usage: an unknown name, a value out of range\n"
            "  130           interrupted (Ctrl-C); what was finished is printed\n\n"
            "%sEnvironment%s\n"
            "  DROPIN_CPU    kernel level: plain, base, avx2\n"
            "  NO_COLOR      no colours and no bold type\n"
            "  XDG_STATE_HOME  where interrupted comparisons are kept (~/.local/state)\n",
            bold(cli), plain(cli), bold(cli), plain(cli));
}

static void help_command(di_cli *cli, const di_command *command) {
    fprintf(cli->out, "%sUsage%s\n  dropin ", bold(cli), plain(cli));
    di_print_wrapped(cli->out, cli->columns, 9, 6, command->usage);
    fputc('\n', cli->out);
    char text[8192];
    snprintf(text, sizeof text, "%s%s%s.%s%s", "", command->help, "",
             command->details && command->details[0] ? "\n\n" : "", command->details ? command->details : "");
    if (text[0] >= 'a' && text[0] <= 'z')
        text[0] = (char)(text[0] - 'a' + 'A');
    di_print_wrapped(cli->out, cli->columns, 0, 0, text);
    if (command->options && command->options->name) {
        fprintf(cli->out, "\n%sOptions%s\n", bold(cli), plain(cli));
        di_option_print_rows(cli, command->options, command->usage, NULL);
    }
    for (const di_option_block *block = command->blocks; block && block->rows; block++) {
        fputc('\n', cli->out);
        di_option_print_rows(cli, block->rows, command->usage, command->options);
    }
}

static void help_part(di_cli *cli, const di_part *part) {
    static const char *const traits[] = {"causal",      "bidirectional", "windows",        "dense masks",
                                         "packed",      "key bias",      "ALiBi slopes",   "grouped heads",
                                         "log-sum-exp", "row sums",      "largest logits", "dim_v"};
    FILE *out = cli->out;
    fprintf(out, "%s%s%s: a part of the slot %s\n\n", bold(cli), part->name, plain(cli), part->slot);
    char text[2048];
    snprintf(text, sizeof text, "%s", part->help ? part->help : "");
    di_print_wrapped(out, cli->columns, 0, 0, text);
    fputc('\n', out);
    enum { AT = 12 };
    fprintf(out, "%-*s%s\n", AT, "Replaces", part->replaces ? part->replaces : "nothing: it is the standard part");
    if (part->paper && part->paper[0])
        fprintf(out, "%-*s%s\n", AT, "Paper", part->paper);
    if (strcmp(part->slot, "attention") == 0) {
        text[0] = 0;
        for (size_t i = 0; i < sizeof traits / sizeof *traits; i++)
            if (part->traits >> i & 1)
                snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", text[0] ? ", " : "", traits[i]);
        fprintf(out, "%-*s", AT, "Offers");
        di_print_wrapped(out, cli->columns, AT, AT, text);
    }
    if (part->options && part->options->name) {
        fprintf(out, "\n%sOptions%s, as in %s:%s=%s\n", bold(cli), plain(cli), part->name, part->options->name,
                part->options->value && part->options->value[0] ? part->options->value : "…");
        di_option_print_rows(cli, part->options, NULL, NULL);
    } else {
        fputs("\nIt has no options.\n", out);
    }
}

/* A usual name that stands for an optimizer with options; false: it is none. */
static bool help_alias(di_cli *cli, const char *name) {
    int64_t count = 0;
    const di_optimizer_alias *alias = di_optimizer_aliases(&count);
    for (; count > 0; count--, alias++) {
        if (strcmp(alias->name, name) != 0)
            continue;
        char text[1024];
        snprintf(text, sizeof text, "%s stands for %s: %s. Options that follow it go on top, as in %s:weight_decay=0.",
                 alias->name, alias->text, alias->help, alias->name);
        di_print_wrapped(cli->out, cli->columns, 0, 0, text);
        const di_part *part = NULL;
        if (di_part_find(cli->parts, cli->parts_count, "optimizer", alias->text, &part, NULL) == DI_OK) {
            fputc('\n', cli->out);
            help_part(cli, part);
        }
        return true;
    }
    return false;
}

static int unknown(di_cli *cli, const char *name) {
    const char *names[512];
    int64_t count = 0;
    for (int32_t i = 0; di_commands[i] && count < 512; i++)
        names[count++] = di_commands[i]->name;
    int64_t aliases = 0;
    const di_optimizer_alias *alias = di_optimizer_aliases(&aliases);
    for (int64_t i = 0; i < aliases && count < 512; i++)
        names[count++] = alias[i].name;
    for (int64_t i = 0; i + 1 < cli->parts_count && count < 511; i++) {
        names[count++] = cli->parts[i]->name;
        names[count++] = cli->parts[i]->slot;
    }
    const char *nearest = di_nearest(name, names, count);
    di_status status =
        nearest ? di_fail(DI_ENAME, "help: nothing is called \"%s\"; did you mean \"%s\"?", name, nearest)
                : di_fail(DI_ENAME, "help: nothing is called \"%s\"; `dropin help` and `dropin list` name everything",
                          name);
    return di_cli_report(cli, status);
}

static int run(di_cli *cli, const void *options, int32_t words, char **word) {
    (void)options;
    if (words == 0) {
        overview(cli);
        return DI_EXIT_OK;
    }
    const di_command *command = di_command_find(word[0]);
    if (command) {
        help_command(cli, command);
        return DI_EXIT_OK;
    }
    bool found = false;
    for (int64_t i = 0; i < cli->parts_count; i++)
        if (strcmp(cli->parts[i]->name, word[0]) == 0) {
            if (found)
                fputc('\n', cli->out);
            help_part(cli, cli->parts[i]);
            found = true;
        }
    if (found || help_alias(cli, word[0]))
        return DI_EXIT_OK;
    for (int64_t i = 0; i < cli->parts_count; i++)
        if (strcmp(cli->parts[i]->slot, word[0]) == 0) {
            const di_command *list = di_command_find("list");
            return list->run(cli, NULL, 1, word);
        }
    return unknown(cli, word[0]);
}

static const di_option rows[] = {{0}};

const di_command di_command_help = {
    .name = "help",
    .usage = "help [COMMAND|PART|SLOT]",
    .help = "this overview, or all about one command, part or slot",
    .options = rows,
    .max_words = 1,
    .run = run,
};
