/* SPDX-License-Identifier: Apache-2.0 */
/* Options: every type and rule, each message, canonical text and its return, finding parts, the nearest spelling. */
#include <float.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/option.h"
#include "core/random.h"
#include "support/scratch.h"
#include <cmocka.h>

typedef struct sample {
    int64_t block, any, count, open;
    double bias, dropout, scale, floor, slope, rate;
    bool normalise;
    int32_t mode;
    di_text file, inner, list;
} sample;

/* The rows that several parts share; the list goes on here. */
static const di_option shared_rows[] = {
    {.name = "floor",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, sample, floor),
     .value = "-inf",
     .min = -INFINITY,
     .max = 0},
    {.name = "slope", .type = DI_NUMBER, .offset = DI_FIELD(double, sample, slope), .value = "0.5"},
    {.name = "rate",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, sample, rate),
     .value = "1e-3",
     .min = 0,
     .max = INFINITY,
     .flags = DI_OPEN_MIN | DI_OPEN_MAX},
    {.name = "normalise", .type = DI_BOOL, .offset = DI_FIELD(bool, sample, normalise), .value = "off"},
    {.name = "mode",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, sample, mode),
     .value = "head",
     .choices = "scalar|head|key"},
    {.name = "file", .type = DI_TEXT, .offset = DI_FIELD(di_text, sample, file), .value = ""},
    {.name = "inner", .type = DI_PART, .offset = DI_FIELD(di_text, sample, inner), .value = "softmax"},
    {.name = "list", .type = DI_TEXT, .offset = DI_FIELD(di_text, sample, list), .flags = DI_REPEAT},
    {.name = NULL}};

static const di_option rows[] = {
    {.name = "block",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, sample, block),
     .value = "64",
     .min = 1,
     .max = 65536},
    {.name = "any", .type = DI_INT, .offset = DI_FIELD(int64_t, sample, any), .value = "-3"},
    {.name = "count",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, sample, count),
     .value = "auto",
     .min = 0,
     .max = INFINITY,
     .flags = DI_AUTO},
    {.name = "open",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, sample, open),
     .value = "2",
     .min = 1,
     .max = 4,
     .flags = DI_OPEN_MIN | DI_OPEN_MAX},
    {.name = "bias", .type = DI_NUMBER, .offset = DI_FIELD(double, sample, bias), .value = "auto", .flags = DI_AUTO},
    {.name = "dropout",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, sample, dropout),
     .value = "0",
     .min = 0,
     .max = 1,
     .flags = DI_OPEN_MAX},
    {.name = "scale",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, sample, scale),
     .value = "1",
     .min = -INFINITY,
     .max = INFINITY,
     .flags = DI_OPEN_MIN | DI_OPEN_MAX},
    {.more = shared_rows}};

/* A rule across options. */
static di_status check(const void *options) {
    const sample *read = options;
    return read->block == 13 && read->dropout == 0.5 ? di_fail(DI_EINVAL, "sigmoid: block=13 with dropout=0.5") : DI_OK;
}

static const di_part sigmoid = {.size = sizeof(di_part),
                                .slot = "attention",
                                .name = "sigmoid",
                                .options = rows,
                                .options_size = sizeof(sample),
                                .check = check};
static const di_part softmax = {.size = sizeof(di_part), .slot = "attention", .name = "softmax"};
static const di_part adamw = {.size = sizeof(di_part), .slot = "optimizer", .name = "adamw"};

static sample parse(const char *text) {
    sample read;
    assert_ok(di_options_parse(&sigmoid, text, &read));
    return read;
}

/* ---- values
 * ----------------------------------------------------------------------------------------------------------- */

static void defaults(void **state) {
    (void)state;
    const char *const texts[] = {NULL, ""};
    for (int32_t i = 0; i < 2; i++) {
        sample read;
        memset(&read, 0x5A, sizeof read);
        assert_ok(di_options_parse(&sigmoid, texts[i], &read));
        assert_int_equal(read.block, 64);
        assert_int_equal(read.any, -3);
        assert_true(read.count == INT64_MIN);
        assert_true(isnan(read.bias) != 0);
        assert_true(read.dropout == 0.0 && read.scale == 1.0 && read.floor == -INFINITY && read.rate == 1e-3);
        assert_false(read.normalise);
        assert_int_equal(read.mode, 1);
        assert_string_equal(read.file.value, "");
        assert_string_equal(read.inner.value, "softmax");
    }
    char nothing;
    assert_ok(di_options_parse(&softmax, "", &nothing));
    assert_ok(di_options_parse(&softmax, NULL, NULL));
}

static void reads_each_type(void **state) {
    (void)state;
    sample read =
        parse("block=65536,any=-9223372036854775808,count=9223372036854775807,bias=-1.5e-3,normalise,mode=key,"
              "file=a=b;c,inner=[combiner:block=64,x=[y:z=1,w=2]],slope=-inf,scale=0x1p-3,open=+3");
    assert_int_equal(read.block, 65536);
    assert_true(read.any == INT64_MIN);
    assert_true(read.count == INT64_MAX);
    assert_true(read.bias == -1.5e-3);
    assert_true(read.normalise);
    assert_int_equal(read.mode, 2);
    assert_string_equal(read.file.value, "a=b;c");
    assert_string_equal(read.inner.value, "combiner:block=64,x=[y:z=1,w=2]");
    assert_true(read.slope == -INFINITY && read.scale == 0.125);
    assert_int_equal(read.open, 3);
    read = parse("count=auto,bias=auto,file=auto,inner=[],list=[a,b]");
    assert_true(read.count == INT64_MIN && isnan(read.bias) != 0);
    assert_string_equal(read.file.value, "auto");
    assert_string_equal(read.inner.value, "");
    assert_string_equal(read.list.value, "a,b");
    assert_string_equal(parse("inner=[[a],[b]]").inner.value, "[a],[b]");
    assert_string_equal(parse("inner=[a]x[b]").inner.value, "[a]x[b]");
    const char *const on[] = {"on", "true", "yes", "1"}, *const off[] = {"off", "false", "no", "0"};
    for (int32_t i = 0; i < 4; i++) {
        char text[32];
        snprintf(text, sizeof text, "normalise=%s", on[i]);
        assert_true(parse(text).normalise);
        snprintf(text, sizeof text, "normalise=%s", off[i]);
        assert_false(parse(text).normalise);
    }
    char text[300], longest[256];
    memset(longest, 'x', 255);
    longest[255] = '\0';
    snprintf(text, sizeof text, "file=%s", longest);
    assert_string_equal(parse(text).file.value, longest);
}

typedef struct refusal {
    const char *text;
    di_status status;
    const char *message;
} refusal;

static void messages(void **state) {
    (void)state;
    const refusal refusals[] = {
        {"bais=3", DI_ENAME, "sigmoid: no option \"bais\"; did you mean \"bias\"?"},
        {"zzzz=3", DI_ENAME,
         "sigmoid: no option \"zzzz\" (block, any, count, open, bias, dropout, scale, floor, slope, rate, normalise, "
         "mode, file, inner, list)"},
        {"bias=abc", DI_EINVAL, "sigmoid: bias=abc is not a number (a number or auto)"},
        {"bias=", DI_EINVAL, "sigmoid: bias= is not a number (a number or auto)"},
        {"bias= 1", DI_EINVAL, "sigmoid: bias= 1 is not a number (a number or auto)"},
        {"bias=1x", DI_EINVAL, "sigmoid: bias=1x is not a number (a number or auto)"},
        {"bias=nan", DI_EINVAL, "sigmoid: bias=nan; NaN is refused (a number or auto)"},
        {"bias=-nan", DI_EINVAL, "sigmoid: bias=-nan; NaN is refused (a number or auto)"},
        {"slope=NaN", DI_EINVAL, "sigmoid: slope=NaN; NaN is refused"},
        {"slope=1e999", DI_ERANGE, "sigmoid: slope=1e999; too large"},
        {"slope=auto", DI_EINVAL, "sigmoid: slope=auto is not a number"},
        {"dropout=1.5", DI_ERANGE, "sigmoid: dropout=1.5; must be in [0, 1)"},
        {"dropout=1", DI_ERANGE, "sigmoid: dropout=1; must be in [0, 1)"},
        {"dropout=-1e-300", DI_ERANGE, "sigmoid: dropout=-1e-300; must be in [0, 1)"},
        {"dropout=inf", DI_ERANGE, "sigmoid: dropout=inf; must be in [0, 1)"},
        {"scale=inf", DI_ERANGE, "sigmoid: scale=inf; must be finite"},
        {"scale=-1e999", DI_ERANGE, "sigmoid: scale=-1e999; must be finite"},
        {"floor=0.5", DI_ERANGE, "sigmoid: floor=0.5; must be at most 0"},
        {"rate=0", DI_ERANGE, "sigmoid: rate=0; must be above 0 and finite"},
        {"rate=inf", DI_ERANGE, "sigmoid: rate=inf; must be above 0 and finite"},
        {"block=0", DI_ERANGE, "sigmoid: block=0; must be 1..65536"},
        {"block=65537", DI_ERANGE, "sigmoid: block=65537; must be 1..65536"},
        {"block=99999999999999999999", DI_ERANGE, "sigmoid: block=99999999999999999999; must be 1..65536"},
        {"block=1.5", DI_EINVAL, "sigmoid: block=1.5 is not a whole number"},
        {"block=0x10", DI_EINVAL, "sigmoid: block=0x10 is not a whole number"},
        {"block=-", DI_EINVAL, "sigmoid: block=- is not a whole number"},
        {"block=auto", DI_EINVAL, "sigmoid: block=auto is not a whole number"},
        {"count=many", DI_EINVAL, "sigmoid: count=many is not a whole number (a whole number or auto)"},
        {"count=-1", DI_ERANGE, "sigmoid: count=-1; must be at least 0 or auto"},
        {"any=9223372036854775808", DI_ERANGE, "sigmoid: any=9223372036854775808; too large"},
        {"open=1", DI_ERANGE, "sigmoid: open=1; must be in (1, 4)"},
        {"open=4", DI_ERANGE, "sigmoid: open=4; must be in (1, 4)"},
        {"normalise=maybe", DI_EINVAL, "sigmoid: normalise=maybe is neither on nor off"},
        {"mode=heed", DI_ENAME, "sigmoid: mode=heed; did you mean \"head\"? (scalar, head, key)"},
        {"mode=qqq", DI_ENAME, "sigmoid: mode=qqq; must be one of scalar, head, key"},
        {"mode=", DI_ENAME, "sigmoid: mode=; must be one of scalar, head, key"},
        {"block", DI_EINVAL, "sigmoid: block needs a value (block=...)"},
        {"block=1,bias=2,block=1", DI_EINVAL, "sigmoid: block is given twice"},
        {"normalise,normalise", DI_EINVAL, "sigmoid: normalise is given twice"},
        {"block=1,,bias=2", DI_EINVAL, "sigmoid: an option without a name at \",bias=2\""},
        {"block=1,", DI_EINVAL, "sigmoid: an option without a name at \"\""},
        {"=1", DI_EINVAL, "sigmoid: an option without a name at \"=1\""},
        {"inner=[a,b", DI_EINVAL, "sigmoid: brackets do not balance in \"inner=[a,b\""},
        {"inner=a],b", DI_EINVAL, "sigmoid: brackets do not balance in \"inner=a],b\""},
        {"block=13,dropout=0.5", DI_EINVAL, "sigmoid: block=13 with dropout=0.5"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        sample read;
        assert_failure(di_options_parse(&sigmoid, refusals[i].text, &read), refusals[i].status, refusals[i].message);
    }
    char text[300], message[100];
    snprintf(text, sizeof text, "file=%0256d", 0);
    sample read;
    assert_failure(di_options_parse(&sigmoid, text, &read), DI_ERANGE,
                   "sigmoid: file has 256 bytes; must be at most 255");
    /* The brackets of a part's text are not part of its 255 bytes. */
    snprintf(text, sizeof text, "inner=[%0255d]", 0);
    assert_ok(di_options_parse(&sigmoid, text, &read));
    assert_int_equal(strlen(read.inner.value), 255);
    snprintf(text, sizeof text, "inner=[%0256d]", 0);
    assert_failure(di_options_parse(&sigmoid, text, &read), DI_ERANGE,
                   "sigmoid: inner has 256 bytes; must be at most 255");
    snprintf(text, sizeof text, "block=%0200d", 0);
    snprintf(message, sizeof message, "sigmoid: block=%064d; must be 1..65536", 0);
    assert_failure(di_options_parse(&sigmoid, text, &read), DI_ERANGE, message);
    assert_failure(di_options_parse(&softmax, "block=1", &read), DI_ENAME,
                   "softmax: no option \"block\"; there are none");
    assert_failure(di_options_parse(NULL, "", &read), DI_EINVAL, "options: part or options is NULL");
    assert_failure(di_options_parse(&sigmoid, "", NULL), DI_EINVAL, "options: part or options is NULL");
}

static void rows_that_are_wrong(void **state) {
    (void)state;
    const di_option none[] = {{.name = "x", .type = DI_INT}, {.name = NULL}};
    const di_option bad[] = {{.name = "x", .type = DI_INT, .value = "7", .min = 1, .max = 5}, {.name = NULL}};
    const di_option strange[] = {{.name = "x", .type = (di_option_type)17, .value = "7"}, {.name = NULL}};
    int64_t x;
    assert_failure(di_options_defaults("test", none, &x), DI_EINVAL, "test: x has no default");
    assert_failure(di_options_defaults(NULL, bad, &x), DI_ERANGE, "options: x=7; must be 1..5");
    assert_failure(di_options_defaults("test", strange, &x), DI_EINVAL, "test: x has an unknown option type 17");
    assert_ok(di_options_defaults("test", NULL, &x));
}

static void sets_one(void **state) {
    (void)state;
    sample read;
    assert_ok(di_options_defaults("train", rows, &read));
    assert_ok(di_options_set("train", rows, &read, "blockade", 5, "128 rows", 3));
    assert_int_equal(read.block, 128);
    assert_ok(di_options_set("train", rows, &read, "normalise", 9, NULL, 0));
    assert_true(read.normalise);
    /* A command's text is taken as it stands; a part's loses its brackets. */
    assert_ok(di_options_set("train", rows, &read, "file", 4, "[x]", 3));
    assert_string_equal(read.file.value, "[x]");
    assert_ok(di_options_set("train", rows, &read, "inner", 5, "[x:a=1,b=2]", 11));
    assert_string_equal(read.inner.value, "x:a=1,b=2");
    assert_ok(di_options_set("train", rows, &read, "list", 4, "a", 1));
    assert_ok(di_options_set("train", rows, &read, "list", 4, "b,c", 3));
    assert_string_equal(read.list.value, "a,b,c");
    char many[252];
    memset(many, 'y', sizeof many);
    assert_failure(di_options_set("train", rows, &read, "list", 4, many, sizeof many), DI_ERANGE,
                   "train: list has 258 bytes; must be at most 255");
    assert_failure(di_options_set("train", rows, &read, "file", 4, "a\0b", 3), DI_EINVAL,
                   "train: file holds a NUL byte");
    assert_failure(di_options_set("train", rows, &read, "inner", 5, "]x[", 3), DI_EINVAL,
                   "train: inner=]x[; brackets do not balance");
    assert_failure(di_options_set("train", rows, &read, "Block", 5, "1", 1), DI_ENAME,
                   "train: no option \"Block\"; did you mean \"block\"?");
    assert_failure(di_options_set("train", rows, NULL, "block", 5, "1", 1), DI_EINVAL,
                   "train: options or name is NULL");
    assert_int_equal(read.block, 128);
    assert_string_equal(parse("list=a,list=[b,c],list=d").list.value, "a,b,c,d");
}

/* ---- text and back --------------------------------------------------------------------------------------------------
 */

static void assert_prints(const char *text, bool all, const char *expected) {
    sample read = parse(text);
    char printed[1024];
    assert_ok(di_options_print(&sigmoid, &read, all, printed, sizeof printed));
    assert_string_equal(printed, expected);
}

static void canonical_text(void **state) {
    (void)state;
    assert_prints("", false, "");
    assert_prints("block=64,bias=auto,mode=head,normalise=no", false, "");
    assert_prints("mode=scalar,normalise,bias=0,block=7", false, "block=7,bias=0,normalise=on,mode=scalar");
    assert_prints("", true,
                  "block=64,any=-3,count=auto,open=2,bias=auto,dropout=0,scale=1,floor=-inf,slope=0.5,rate=0.001,"
                  "normalise=off,mode=head,file=,inner=softmax,list=");
    assert_prints("dropout=-0,slope=inf,inner=[x:a=1,b=2],file=[,]", false,
                  "dropout=-0,slope=inf,file=[,],inner=[x:a=1,b=2]");
    assert_prints("inner=[x:a=1]", false, "inner=x:a=1");
    assert_prints("inner=[[x]],file=[[x]]", false, "file=[[x]],inner=[[x]]");
    assert_prints("slope=1000000,bias=1e-7,scale=1e22", false, "bias=1e-7,scale=1e22,slope=1000000");
}

static void print_refuses(void **state) {
    (void)state;
    char text[1024];
    sample read = parse("block=7,bias=1");
    assert_ok(di_options_print(&sigmoid, &read, false, text, 15));
    assert_string_equal(text, "block=7,bias=1");
    assert_failure(di_options_print(&sigmoid, &read, false, text, 14), DI_ERANGE,
                   "sigmoid: the options' text does not fit in 14 bytes");
    assert_string_equal(text, "");
    read.mode = 3;
    assert_failure(di_options_print(&sigmoid, &read, false, text, sizeof text), DI_ERANGE,
                   "sigmoid: mode holds choice 3; must be one of scalar|head|key");
    read.mode = -1;
    assert_int_equal(di_options_print(&sigmoid, &read, false, text, sizeof text), DI_ERANGE);
    read = parse("");
    read.slope = NAN;
    assert_failure(di_options_print(&sigmoid, &read, false, text, sizeof text), DI_EINVAL, "sigmoid: slope holds NaN");
    read = parse("");
    strcpy(read.file.value, "a]b");
    assert_failure(di_options_print(&sigmoid, &read, false, text, sizeof text), DI_EINVAL,
                   "sigmoid: file=a]b; brackets do not balance");
    memset(read.file.value, 'x', sizeof read.file.value);
    assert_failure(di_options_print(&sigmoid, &read, false, text, sizeof text), DI_EINVAL,
                   "sigmoid: file is not ended by a NUL byte");
    assert_failure(di_options_print(&sigmoid, &read, false, NULL, 3), DI_EINVAL,
                   "options: part, options or text is missing");
}

static uint64_t random_bits(uint64_t index) {
    const uint32_t counter[4] = {(uint32_t)index, 0, 0, 0};
    uint32_t out[4];
    di_random_philox(1, counter, out);
    return (uint64_t)out[0] << 32 | out[1];
}

static double any_double(uint64_t index) {
    uint64_t bits = random_bits(index);
    double value;
    memcpy(&value, &bits, sizeof value);
    return isnan(value) ? 0.1 : value;
}

static void returns_exactly(void **state) {
    (void)state;
    static const char *const words[] = {"", "a", "a b", "x=1,y=2", "[a],[b]", "[a]", "[[a,b]]", "p:[q:r=1,s=2],t"};
    for (uint64_t i = 0; i < 3000; i++) {
        sample before;
        memset(&before, 0, sizeof before); /* padding and the ends of texts are zero, as parsing leaves them */
        before.open = 3;
        before.scale = -1.5;
        before.floor = -INFINITY;
        uint64_t bits = random_bits(i * 8);
        before.block = 1 + (int64_t)(bits % 65536);
        before.any = (int64_t)random_bits(i * 8 + 1);
        before.count = bits & 1 ? INT64_MIN : (int64_t)(random_bits(i * 8 + 2) >> 1);
        before.bias = bits & 2 ? (double)NAN : any_double(i * 8 + 3);
        before.slope = any_double(i * 8 + 4);
        before.dropout = (double)(bits >> 11) * 0x1p-53;
        before.rate = fmax(fabs((double)(float)any_double(i * 8 + 5)), DBL_MIN);
        before.rate = isinf(before.rate) ? DBL_MAX : before.rate;
        before.normalise = (bits & 4) != 0;
        before.mode = (int32_t)(bits % 3);
        strcpy(before.file.value, words[bits >> 40 & 7]);
        strcpy(before.inner.value, words[bits >> 44 & 7]);
        strcpy(before.list.value, words[bits >> 48 & 7]);
        for (int32_t all = 0; all <= 1; all++) {
            char text[2048];
            assert_ok(di_options_print(&sigmoid, &before, all != 0, text, sizeof text));
            sample after = parse(text);
            assert_memory_equal(&before, &after, sizeof before);
        }
    }
}

static void shortest_numbers(void **state) {
    (void)state;
    const struct {
        double number;
        const char *text;
    } cases[] = {{0.1, "0.1"},
                 {1.0 / 3, "0.3333333333333333"},
                 {0.1 + 0.2, "0.30000000000000004"},
                 {1e100, "1e100"},
                 {123456789012345.0, "123456789012345"},
                 {1e15, "1e15"},
                 {5e-324, "5e-324"},
                 {DBL_MAX, "1.7976931348623157e308"},
                 {-2.5e-5, "-2.5e-5"},
                 {0.0001, "0.0001"},
                 {-0.0, "-0"},
                 {INFINITY, "inf"},
                 {-INFINITY, "-inf"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        di_number_print(cases[i].number, text);
        assert_string_equal(text, cases[i].text);
        double back;
        bool huge;
        assert_true(di_number_read(text, &back, &huge));
        assert_memory_equal(&back, &cases[i].number, sizeof back);
        assert_false(huge);
    }
}

/* A host that writes "0,5" changes nothing. Needs such a locale on the machine; without one the rest still holds. */
static void ignores_the_locale(void **state) {
    (void)state;
    const char *const locales[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE", "fr_FR"};
    bool found = false;
    for (int32_t i = 0; i < 5 && !found; i++) {
        found = setlocale(LC_ALL, locales[i]) != NULL;
    }
    if (!found) {
        print_message("no locale with a decimal comma on this machine\n");
        skip();
    }
    char text[64];
    snprintf(text, sizeof text, "%g", 0.5);
    assert_string_equal(text, "0,5");
    assert_true(parse("slope=0.25").slope == 0.25);
    assert_prints("slope=0.25", false, "slope=0.25");
    snprintf(text, sizeof text, "%g", 0.5);
    assert_string_equal(text, "0,5");
    assert_non_null(setlocale(LC_ALL, "C"));
}

/* ---- names
 * ----------------------------------------------------------------------------------------------------------- */

static void finds_parts(void **state) {
    (void)state;
    const di_part *const parts[] = {&softmax, NULL, &adamw, &sigmoid};
    const di_part *part = NULL;
    const char *options = NULL;
    assert_ok(di_part_find(parts, 4, "attention", "sigmoid", &part, &options));
    assert_ptr_equal(part, &sigmoid);
    assert_string_equal(options, "");
    assert_ok(di_part_find(parts, 4, "attention", "softmax:a=b:c", &part, &options));
    assert_ptr_equal(part, &softmax);
    assert_string_equal(options, "a=b:c");
    assert_ok(di_part_find(parts, 4, "optimizer", "adamw:", &part, NULL));
    assert_ptr_equal(part, &adamw);
    assert_failure(di_part_find(parts, 4, "attention", "sigmod:bias=1", &part, &options), DI_ENAME,
                   "attention: no part \"sigmod\"; did you mean \"sigmoid\"? (softmax, sigmoid)");
    assert_failure(di_part_find(parts, 4, "attention", "adamw", &part, &options), DI_ENAME,
                   "attention: no part \"adamw\" (softmax, sigmoid)");
    assert_failure(di_part_find(parts, 4, "attention", "", &part, &options), DI_ENAME,
                   "attention: no part \"\" (softmax, sigmoid)");
    assert_failure(di_part_find(parts, 4, "loss", "eisl", &part, &options), DI_ENAME,
                   "loss: no part \"eisl\"; there are none");
    assert_failure(di_part_find(NULL, 4, "loss", "eisl", &part, &options), DI_EINVAL,
                   "parts: parts, slot, text or part is NULL");
    assert_failure(di_part_find(parts, 4, "loss", NULL, &part, &options), DI_EINVAL,
                   "parts: parts, slot, text or part is NULL");
}

static void nearest(void **state) {
    (void)state;
    static const char *const names[] = {"softmax", "sigmoid", "combiner", NULL,   "bias",     "k",
                                        "lr",      "block_q", "block",    "adam", "adamw8bit"};
    const struct {
        const char *name, *near;
    } cases[] = {
        {"sigmod", "sigmoid"},
        {"SIGMOID", "sigmoid"},
        {"sgimoid", "sigmoid"},
        {"sigmoid", "sigmoid"},
        {"softmxa", "softmax"},
        {"comb", "combiner"},
        {"bais", "bias"},
        {"baise", NULL},
        {"lt", "lr"},
        {"rl", "lr"},
        {"x", NULL},
        {"q", NULL},
        {"k", "k"},
        {"softmax_tiled", "softmax"},
        {"zebra", NULL},
        {"", NULL},
        {"blocks", "block"},
        {"block_", "block_q"},
        {"comibner", "combiner"},
        {"attention", NULL},
        {"adamw8bits", "adamw8bit"},
        {"adamw", "adam"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *near = di_nearest(cases[i].name, names, 11);
        const char *expected = cases[i].near != NULL ? cases[i].near : "none";
        if (strcmp(near != NULL ? near : "none", expected) != 0) {
            fail_msg("\"%s\" is near %s, not %s", cases[i].name, near != NULL ? near : "none", expected);
        }
    }
    char endless[300];
    memset(endless, 'a', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    assert_null(di_nearest(endless, names, 11));
    assert_null(di_nearest(NULL, names, 11));
    assert_null(di_nearest("bias", names, 0));
}

/* Whatever the text, reading ends with a struct or a message, and what was read prints and reads again. */
static void hostile_texts(void **state) {
    (void)state;
    static const char alphabet[] = "=,[]:-+.019eblockdropuinfra\xff ";
    int64_t good = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        char text[64] = "block=";
        size_t used = i % 2 == 0 ? 6 : 0, length = used + random_bits(i) % 20;
        for (; used < length; used++) {
            text[used] = alphabet[random_bits(i * 32 + used + 100000) % (sizeof alphabet - 1)];
        }
        text[used] = '\0';
        sample read;
        if (di_options_parse(&sigmoid, text, &read) == DI_OK) {
            char printed[1024];
            assert_ok(di_options_print(&sigmoid, &read, false, printed, sizeof printed));
            sample again = parse(printed);
            assert_memory_equal(&read, &again, sizeof read);
            good++;
        } else {
            assert_true(strlen(di_message()) > 0);
        }
    }
    assert_true(good > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),         cmocka_unit_test(reads_each_type),
        cmocka_unit_test(messages),         cmocka_unit_test(rows_that_are_wrong),
        cmocka_unit_test(sets_one),         cmocka_unit_test(canonical_text),
        cmocka_unit_test(print_refuses),    cmocka_unit_test(returns_exactly),
        cmocka_unit_test(shortest_numbers), cmocka_unit_test(ignores_the_locale),
        cmocka_unit_test(finds_parts),      cmocka_unit_test(nearest),
        cmocka_unit_test(hostile_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
