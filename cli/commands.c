/* SPDX-License-Identifier: Apache-2.0 */
/* The list of commands: one declaration and one row each. */
#include "cli/cli.h"
#include <string.h>

extern const di_command di_command_bench, di_command_claim, di_command_compare, di_command_eval, di_command_generate,
    di_command_help, di_command_list, di_command_plan, di_command_train, di_command_version;

const di_command *const di_commands[] = {
    &di_command_compare, /* the main job first */
    &di_command_claim,   &di_command_train, &di_command_eval, &di_command_generate, &di_command_plan,
    &di_command_bench,   &di_command_list,  &di_command_help, &di_command_version,  NULL,
};

const di_command *di_command_find(const char *name) {
    for (int32_t i = 0; di_commands[i]; i++)
        if (strcmp(di_commands[i]->name, name) == 0)
            return di_commands[i];
    return NULL;
}
