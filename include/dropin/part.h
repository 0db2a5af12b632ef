/* SPDX-License-Identifier: Apache-2.0 */
/* Options and parts. A part is one constant record; from it come parsing, help, validation, Python signatures,
 * benchmark labels and tests. */
#ifndef DROPIN_PART_H
#define DROPIN_PART_H

#include <dropin/core.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* Kinds of option, and the C type of the field that each fills. */
typedef enum di_option_type {
    DI_INT,    /* int64_t; auto = INT64_MIN */
    DI_NUMBER, /* double; auto = NaN (a NaN from a user is refused) */
    DI_BOOL,   /* bool: on, off, true, false, yes, no, 1, 0; the bare name means on */
    DI_CHOICE, /* int32_t: index into `choices` */
    DI_TEXT,   /* di_text; in a list of options in brackets where it has commas or begins with one */
    DI_PART    /* di_text holding the text of another part; in brackets where it has commas */
} di_option_type;

typedef struct di_text {
    char value[256];
} di_text;

enum {
    DI_AUTO = 1,     /* the word `auto` is allowed: chosen for you */
    DI_OPEN_MIN = 2, /* min itself is refused */
    DI_OPEN_MAX = 4, /* max itself is refused */
    DI_REPEAT = 8    /* commands: the option may be given again; texts are joined by commas */
};

/* One row. Defaults exist only here. Rows end with one whose name is NULL; where its `more` is set they go on there,
 * with rows that several parts share over a struct that the option struct of each begins with. */
typedef struct di_option {
    const char *name;
    di_option_type type;
    size_t offset;       /* DI_FIELD */
    const char *value;   /* default, as text */
    double min, max;     /* DI_INT and DI_NUMBER; both 0: any value (infinities too) */
    const char *choices; /* DI_CHOICE: "scalar|head|key" */
    uint32_t flags;
    const char *help;
    const struct di_option *more; /* last row only */
} di_option;

/* The row after this one, over the seam to shared rows: for (row = rows; row && row->name; row = di_option_after(row)).
 * The row that it gives at the end has no name. */
DI_API const di_option *di_option_after(const di_option *row);
/* The row of that name (its first `bytes` characters), or NULL. */
DI_API const di_option *di_option_find(const di_option *rows, const char *name, size_t bytes);

/* offsetof, refused at compile time where the member has another type: .offset = DI_FIELD(int64_t, combiner, block) */
#define DI_FIELD(type, structure, member) _Generic(((structure *)0)->member, type : offsetof(structure, member))

/* What a part can do; asking for more is DI_EUNSUPPORTED by name. */
enum {
    DI_CAUSAL = 1 << 0,
    DI_BIDIRECTIONAL = 1 << 1,
    DI_WINDOW = 1 << 2,
    DI_DENSE_MASK = 1 << 3,
    DI_PACKED = 1 << 4,
    DI_KEY_BIAS = 1 << 5,
    DI_SLOPES = 1 << 6,
    DI_GROUPED = 1 << 7,
    DI_LSE = 1 << 8,
    DI_ROW_SUM = 1 << 9,
    DI_MAX_LOGIT = 1 << 10,
    DI_DIM_V = 1 << 11,
    DI_READS_OUTPUT = 1 << 12, /* backward reads what forward wrote to io->out (softmax) */
    DI_TOP_LEFT = 1 << 13      /* mask.top_left */
};

typedef struct di_part {
    size_t size;          /* sizeof the whole record, e.g. sizeof(di_attention) */
    const char *slot;     /* "attention" */
    const char *name;     /* "sigmoid": the file's stem */
    const char *python;   /* class name; NULL: CamelCase of name */
    const char *replaces; /* name of the standard part; NULL: it is the standard part */
    const char *paper;    /* "arXiv 2409.04431" */
    const char *help;     /* one line */
    uint32_t traits;
    const di_option *options;
    size_t options_size;                     /* sizeof the option struct */
    di_status (*check)(const void *options); /* rules across options; NULL: none */
    double tolerance[2];                     /* relative, {f32, f64} */
    const char *const *examples;             /* test inputs in the slot's notation, NULL-ended; NULL: the slot's own */
    const void *reserved[4];
} di_part;

/* Reads "key=value,key=value" into `options` (options_size bytes), starting from the defaults, then calls check. A NULL
 * or empty text gives the defaults. Errors name part, option, value, rule and the nearest spelling. */
DI_CALL di_status di_options_parse(const di_part *part, const char *text, void *options);
/* The same on top of what `options` holds: a group's options over its optimizer's. */
DI_CALL di_status di_options_change(const di_part *part, const char *text, void *options);

/* The primitives under it, shared with commands. `owner` is named in messages ("sigmoid", "compare"). */
DI_CALL di_status di_options_defaults(const char *owner, const di_option *rows, void *options);
DI_CALL di_status di_options_set(const char *owner, const di_option *rows, void *options, const char *name,
                                 size_t name_bytes, const char *value, size_t value_bytes);

/* Canonical text: the options that differ from their default in row order, "" if none; with `all`, every option.
 * Parsing it gives the same struct. DI_ERANGE if it does not fit. */
DI_CALL di_status di_options_print(const di_part *part, const void *options, bool all, char *text, size_t capacity);

/* Splits "name:options", finds the name among parts of `slot`, gives the options' text ("" without a colon; `options`
 * may be NULL). DI_ENAME with the nearest spelling. */
DI_CALL di_status di_part_find(const di_part *const *parts, int64_t count, const char *slot, const char *text,
                               const di_part **part, const char **options);

/* The closest of `names` by edit distance, or NULL where none is near enough to be meant. */
DI_API const char *di_nearest(const char *name, const char *const *names, int64_t count);

#if defined(__cplusplus)
}
#endif
#endif
