/* SPDX-License-Identifier: Apache-2.0 */
/* The program `dropin`: the command with the library's own parts. */
#include <dropin/command.h>
#include <stdlib.h>
#include <unistd.h>

/* OpenMP's threads spin for milliseconds at every join. Beside another busy process that is worse than useless: a step
 * that takes 0.12 s took 1.3 s on two cores with others at work. Its runtime reads the limit only when it is loaded, so
 * the program starts itself once more with a short one. Whoever set a policy keeps it. */
static void wait_briefly(char **argv) {
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || setenv("GOMP_SPINCOUNT", "1000", 1) != 0)
        return;
    execv("/proc/self/exe", argv);
    /* Where that cannot be, we go on with the long one. */
}

int main(int argc, char **argv) {
    wait_briefly(argv);
    return dropin_main(argc, argv, NULL, 0);
}
