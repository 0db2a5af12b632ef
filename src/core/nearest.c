/* SPDX-License-Identifier: Apache-2.0 */
/* The nearest spelling. */
#include <dropin/part.h>

#include <string.h>

enum { LONGEST = 64, RANKS = LONGEST + 1 };

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

/* Damerau–Levenshtein distance (optimal string alignment): insertions, deletions, substitutions and swaps of neighbours
 * cost one each. Three rows of the table are enough. */
static int32_t distance(const char *a, int32_t length_a, const char *b, int32_t length_b) {
    int32_t rows[3][LONGEST + 1];
    int32_t *before = rows[0], *last = rows[1], *current = rows[2];
    for (int32_t j = 0; j <= length_b; j++) {
        last[j] = j;
    }
    for (int32_t i = 1; i <= length_a; i++) {
        current[0] = i;
        for (int32_t j = 1; j <= length_b; j++) {
            char x = lower(a[i - 1]), y = lower(b[j - 1]);
            int32_t cost = least(least(last[j], current[j - 1]) + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == lower(b[j - 2]) && lower(a[i - 2]) == y) {
                cost = least(cost, before[j - 2] + 1);
            }
            current[j] = cost;
        }
        int32_t *spare = before;
        before = last;
        last = current;
        current = spare;
    }
    return last[length_b];
}

/* How far `candidate` is, or -1 where it cannot be meant. The limit is a third of the longer word, at least one; one
 * letter must be shared. A beginning of at least two letters counts as one step off; between equals the true distance
 * decides. */
static int32_t score(const char *name, const char *candidate) {
    size_t bytes_name = strlen(name), bytes_candidate = strlen(candidate);
    if (bytes_name > LONGEST || bytes_candidate > LONGEST) {
        return -1;
    }
    int32_t length_name = (int32_t)bytes_name, length_candidate = (int32_t)bytes_candidate;
    int32_t shorter = least(length_name, length_candidate);
    int32_t longer = length_name + length_candidate - shorter;
    int32_t steps = distance(name, length_name, candidate, length_candidate);
    int32_t shared = 0;
    while (shared < shorter && lower(name[shared]) == lower(candidate[shared])) {
        shared++;
    }
    if (shared == shorter && shared >= 2) {
        return least(steps, 1) * RANKS + steps;
    }
    int32_t limit = longer / 3 > 1 ? longer / 3 : 1;
    return steps <= limit && steps < longer ? steps * RANKS + steps : -1;
}

const char *di_nearest(const char *name, const char *const *names, int64_t count) {
    const char *best = NULL;
    int32_t best_score = INT32_MAX;
    for (int64_t i = 0; name != NULL && i < count; i++) {
        int32_t steps = names[i] == NULL ? -1 : score(name, names[i]);
        if (steps >= 0 && steps < best_score) {
            best = names[i];
            best_score = steps;
        }
    }
    return best;
}
