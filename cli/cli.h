/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands share. A command is a constant record with the same option rows as a part; the command line `--name
 * value` (or --name=value) fills its struct. Results go to `out`, progress and messages to `err`. */
#ifndef DI_CLI_CLI_H
#define DI_CLI_CLI_H

#include <dropin/part.h>
#include <stdio.h>

typedef struct di_cli {
    const di_part *const *parts; /* the library's and the caller's, all slots */
    int64_t parts_count;
    FILE *out, *err;
    bool out_terminal, err_terminal;
    bool color;      /* a terminal and no NO_COLOR */
    int32_t columns; /* width of the terminal, 80 elsewhere */
    int out_error;   /* errno of a write to out that failed; 0: none known */
} di_cli;

enum { DI_EXIT_OK = 0, DI_EXIT_FAILED = 1, DI_EXIT_USAGE = 2, DI_EXIT_INTERRUPTED = 130 };

/* Rows that several commands share (model, training): over a struct of their own that lies at `offset` in the command's
 * struct. A list of blocks ends with rows NULL; no name may be in two blocks, and a command's own row hides a block's
 * of the same name. On the command line - and _ in names are the same: --kv-heads is the row kv_heads. */
typedef struct di_option_block {
    const di_option *rows;
    size_t offset;
} di_option_block;

typedef struct di_command {
    const char *name;
    const char *usage;             /* "compare SLOT [PART[:options]]…" */
    const char *help;              /* one line */
    const char *details;           /* paragraphs for `help NAME` */
    const di_option *options;      /* its own rows, by offset in its struct */
    const di_option_block *blocks; /* rows shared with other commands, listed after its own; NULL: none */
    size_t options_size;
    int32_t min_words, max_words; /* positional words; max -1: any */
    di_status (*check)(const void *options);
    int (*run)(di_cli *cli, const void *options, int32_t words, char **word);
} di_command;

/* The list, in the order of `dropin help`, NULL-ended (one row a command, in commands.c). */
extern const di_command *const di_commands[];
const di_command *di_command_find(const char *name); /* NULL: not there */

/* Prints "dropin: " and the message to err, returns the exit code that fits the status. */
int di_cli_report(di_cli *cli, di_status status);
/* Sends out what was printed; false where it cannot arrive. dropin_main says so at the end, and fails. */
bool di_cli_flush(di_cli *cli);
/* exec from --threads (DI_INT with auto) and with progress bound to Ctrl-C: it returns false once SIGINT or SIGTERM
 * came. */
di_status di_cli_exec(di_cli *cli, int64_t threads, di_exec *exec);
bool di_cli_interrupted(void);

/* One line on err, on a terminal only: "train  step 120/300  loss 2.31  41 steps/s  4 s left". */
typedef struct di_progress {
    di_cli *cli;
    const char *label;
    int64_t total;
    double began, shown;
} di_progress;
void di_progress_begin(di_progress *progress, di_cli *cli, const char *label, int64_t total);
void di_progress_update(di_progress *progress, int64_t done, const char *note); /* at most ten times a second */
void di_progress_end(di_progress *progress);                                    /* wipes the line */
double di_seconds(void);                                                        /* monotonic */

/* A table on out: columns as wide as their widest cell, numbers to the right; a newline in a title splits it over two
 * lines. Where the terminal is narrower than the table, its columns are folded into blocks that repeat the first one.
 */
typedef struct di_table_print di_table_print;
di_table_print *di_table_begin(int32_t columns, const char *const *titles);
void di_table_cell(di_table_print *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void di_table_end(di_table_print *table, di_cli *cli); /* prints and frees */

/* Prints `text` in lines of at most cli->columns (and 100) columns. The first line goes on at column `at` of the line
 * that was begun, the others start at `indent`; a newline in the text starts a new line. Ends with a newline. */
void di_print_wrapped(FILE *file, int32_t columns, int32_t at, int32_t indent, const char *text);
int32_t di_text_columns(const char *utf8); /* columns that a text takes: its code points */

/* "1.23 MB", "45.6 GFLOP" … into text; returns text. */
const char *di_human(double value, const char *unit, char *text, size_t capacity);

#endif
