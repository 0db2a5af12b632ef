/* SPDX-License-Identifier: Apache-2.0 */
/* What reading and printing of options share. */
#ifndef DI_CORE_OPTION_H
#define DI_CORE_OPTION_H

#include <dropin/part.h>

/* A value of any option type, outside its struct. */
typedef union di_option_value {
    int64_t integer;
    double number;
    bool truth;
    int32_t choice;
    di_text text;
} di_option_value;

/* Reads `bytes` bytes of text as a value of the row's type and range. `owner` is named in messages. */
DI_CHECKED di_status di_option_read(const char *owner, const di_option *row, const char *text, size_t bytes,
                                    di_option_value *value);
/* Copies a value into, or out of, the row's field of an option struct. */
void di_option_store(const di_option *row, const di_option_value *value, void *options);
void di_option_load(const di_option *row, const void *options, di_option_value *value);
bool di_option_equal(di_option_type type, const di_option_value *a, const di_option_value *b);

/* A double as text: the shortest decimal that reads back to the same bits, independent of the host's locale. */
void di_number_print(double number, char text[32]);
/* Reads the whole of `text` (NUL-ended) in strtod's syntax of the C locale, without leading blanks. False if it is not
 * a number; `huge` tells that a finite text is beyond the doubles. */
bool di_number_read(const char *text, double *number, bool *huge);

/* The rule of a DI_INT or DI_NUMBER row in words: "must be 1..65536 or auto", "must be in [0, 1)"; "" for none. */
void di_option_rule(const di_option *row, char rule[128]);

/* Length of the value at the head of `text` up to a comma outside brackets, or the end; -1 if brackets do not balance.
 */
int64_t di_option_span(const char *text);
/* True if the text is one bracket and what it holds: "[a,b]", not "[a],[b]". */
bool di_option_bracketed(const char *text, size_t bytes);

#endif
