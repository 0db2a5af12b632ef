/* SPDX-License-Identifier: Apache-2.0 */
/* The program `dropin`: the command with the library's own parts. */
#include <dropin/command.h>

int main(int argc, char **argv) { return dropin_main(argc, argv, NULL, 0); }
