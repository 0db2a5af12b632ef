/* SPDX-License-Identifier: Apache-2.0 */
/* Option rows as a person reads them. */
#ifndef DI_CLI_OPTIONS_H
#define DI_CLI_OPTIONS_H

#include "cli/cli.h"

/* The name as it stands on the command line: kv_heads is kv-heads. Returns text. */
const char *di_option_spell(const char *name, char *text, size_t capacity);
/* What a value may be, in words: "1 to 512", "more than 0, less than 1", "a|b", "" where anything goes. Returns text.
 */
const char *di_option_range(const di_option *row, char *text, size_t capacity);
/* Prints the rows, one entry each, at most cli->columns wide. A command's rows are printed as --name VALUE, the word
 * for the value taken from `usage` where that names it (--json FILE); a part's (usage NULL) as name=value. Rows whose
 * name is in `hide` (may be NULL) are passed by. */
void di_option_print_rows(di_cli *cli, const di_option *rows, const char *usage, const di_option *hide);

#endif
