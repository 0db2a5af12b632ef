/* SPDX-License-Identifier: Apache-2.0 */
/* Writes gnuplot's script: data first, as named blocks, then the panels. */
#include "cli/plot.h"
#include "cli/output.h"
#include "cli/process.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Distinct for most kinds of colour vision (Okabe and Ito). */
static const char *const colours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"};
enum { COLOURS = sizeof colours / sizeof *colours };

di_status di_plot_check(const char *owner, const char *path) {
    const char *end = strrchr(path, '.');
    if (end && (strcmp(end, ".svg") == 0 || strcmp(end, ".png") == 0))
        return DI_OK;
    return di_fail(DI_ENAME, "%s: --plot %s; the name must end in .svg or .png", owner, path);
}

/* ---- data -------------------------------------------------------------------------------------------------------- */

typedef enum curve { TRAINING, VALIDATION } curve;

static int32_t points_of(const di_comparison_run *run, curve which) {
    return which == TRAINING ? run->training_points : run->validation_points;
}
static double value_of(const di_comparison_run *run, curve which, int32_t point) {
    return which == TRAINING ? run->training[point] : run->validation[point];
}

/* The step (of `steps`) after which point number `point` of `points` was taken. */
static int64_t step_of(int64_t steps, int32_t point, int32_t points) {
    return ((int64_t)(point + 1) * steps + points - 1) / points;
}

/* Mean, lowest and highest of one point over the finished seeds of a part at its best rate; their number. */
static int64_t spread(const di_comparison *comparison, int64_t part, curve which, int32_t point, double at[3]) {
    int64_t rate = di_comparison_best_rate(comparison, part), count = 0;
    double sum = 0;
    for (int64_t seed = 0; seed < comparison->settings.seeds; seed++) {
        const di_comparison_run *run = di_comparison_at(comparison, part, rate, seed);
        if (!run->done || !isfinite(value_of(run, which, point)))
            continue;
        double value = value_of(run, which, point);
        at[1] = count == 0 || value < at[1] ? value : at[1];
        at[2] = count == 0 || value > at[2] ? value : at[2];
        sum += value;
        count++;
    }
    at[0] = count ? sum / (double)count : NAN;
    return count;
}

static const di_comparison_run *first_run(const di_comparison *comparison, int64_t part) {
    int64_t rate = di_comparison_best_rate(comparison, part);
    for (int64_t seed = 0; seed < comparison->settings.seeds; seed++)
        if (di_comparison_at(comparison, part, rate, seed)->done)
            return di_comparison_at(comparison, part, rate, seed);
    return NULL;
}

static void write_curve(FILE *script, const di_comparison *comparison, int64_t part, curve which, const char *name) {
    const di_comparison_run *run = first_run(comparison, part);
    int32_t points = points_of(run, which);
    fprintf(script, "$%s%lld << EOD\n", name, (long long)part);
    for (int32_t i = 0; i < points; i++) {
        double at[3];
        if (spread(comparison, part, which, i, at))
            fprintf(script, "%lld %.6g %.6g %.6g\n",
                    (long long)step_of(comparison->settings.base.schedule.steps, i, points), at[0], at[1], at[2]);
    }
    fputs("EOD\n", script);
}

/* Validation loss of `part` minus that of `standard` at one point, over the seeds that both have finished. */
static di_sample_mean difference(const di_comparison *comparison, int64_t part, int64_t standard, int32_t point) {
    int64_t rate = di_comparison_best_rate(comparison, part), other = di_comparison_best_rate(comparison, standard);
    double values[DI_COMPARISON_SEEDS] = {0};
    int64_t count = 0;
    for (int64_t seed = 0; seed < comparison->settings.seeds; seed++) {
        const di_comparison_run *a = di_comparison_at(comparison, part, rate, seed);
        const di_comparison_run *b = di_comparison_at(comparison, standard, other, seed);
        if (a->done && b->done)
            values[count++] = a->validation[point] - b->validation[point];
    }
    return di_mean_of(values, count);
}

static void write_difference(FILE *script, const di_comparison *comparison, int64_t part, int64_t standard) {
    int32_t points = first_run(comparison, part)->validation_points;
    fprintf(script, "$difference%lld << EOD\n", (long long)part);
    for (int32_t i = 0; i < points; i++) {
        di_sample_mean mean = difference(comparison, part, standard, i);
        if (isfinite(mean.mean))
            fprintf(script, "%lld %.6g %.6g\n", (long long)step_of(comparison->settings.base.schedule.steps, i, points),
                    mean.mean, isnan(mean.error) ? 0 : mean.error);
    }
    fputs("EOD\n", script);
}

/* Whether a part has a curve: something finished that did not diverge at once. */
static bool drawn(const di_comparison *comparison, int64_t part) {
    double at[3];
    return first_run(comparison, part) && spread(comparison, part, TRAINING, 0, at) > 0;
}

static bool difference_drawn(const di_comparison *comparison, int64_t part, int64_t standard) {
    return part != standard && drawn(comparison, part) && drawn(comparison, standard) &&
           isfinite(difference(comparison, part, standard, 0).mean);
}

/* The range of losses that is worth its ink: from the lowest to what is reached after a tenth of the steps. */
static void loss_range(const di_comparison *comparison, double *low, double *high) {
    *low = INFINITY;
    *high = -INFINITY;
    for (int64_t part = 0; part < comparison->settings.parts_count; part++) {
        const di_comparison_run *run = first_run(comparison, part);
        for (int32_t i = 0; run && drawn(comparison, part) && i < run->training_points; i++) {
            double at[3];
            if (!spread(comparison, part, TRAINING, i, at))
                continue;
            *low = at[1] < *low ? at[1] : *low;
            if (i >= run->training_points / 10)
                *high = at[2] > *high ? at[2] : *high;
        }
        for (int32_t i = 0; run && i < run->validation_points; i++) {
            double at[3];
            if (spread(comparison, part, VALIDATION, i, at))
                *low = at[1] < *low ? at[1] : *low;
        }
    }
    double margin = 0.04 * (*high - *low);
    *low -= margin;
    *high += margin;
}

/* A text in single quotes, as gnuplot reads it. */
static void write_quoted(FILE *script, const char *text) {
    fputc('\'', script);
    for (; *text; text++) {
        if (*text == '\'')
            fputc('\'', script);
        fputc(*text == '\n' ? ' ' : *text, script);
    }
    fputc('\'', script);
}

static int64_t parts_drawn(const di_comparison *comparison) {
    int64_t count = 0;
    for (int64_t part = 0; part < comparison->settings.parts_count; part++)
        count += drawn(comparison, part);
    return count;
}

/* ---- the picture ---------------------------------------------------------------------------------------------------
 */

static void write_losses(FILE *script, const di_comparison *comparison, const char *unit) {
    double low, high;
    loss_range(comparison, &low, &high);
    int64_t seeds = comparison->settings.seeds;
    fprintf(script,
            "set title 'Training loss (line: mean of %lld seed%s%s) and validation loss (points)'\n"
            "set ylabel 'loss (%s)'\nset yrange [%.6g:%.6g]\nset key top right\nplot ",
            (long long)seeds, seeds == 1 ? "" : "s", seeds == 1 ? "" : "; band: lowest to highest", unit, low, high);
    const char *comma = "";
    for (int64_t part = 0; part < comparison->settings.parts_count; part++)
        if (drawn(comparison, part) && seeds > 1) {
            fprintf(script,
                    "%s$training%lld using 1:3:4 with filledcurves lc rgb '%s' fs transparent solid 0.18 noborder "
                    "notitle",
                    comma, (long long)part, colours[part % COLOURS]);
            comma = ", ";
        }
    for (int64_t part = 0; part < comparison->settings.parts_count; part++)
        if (drawn(comparison, part)) {
            fprintf(script, "%s$training%lld using 1:2 with lines lw 2 lc rgb '%s' title ", comma, (long long)part,
                    colours[part % COLOURS]);
            write_quoted(script, di_comparison_label(&comparison->settings.parts[part]));
            fprintf(script, ", $validation%lld using 1:2 with points pt 7 ps 0.7 lc rgb '%s' notitle", (long long)part,
                    colours[part % COLOURS]);
            comma = ", ";
        }
    fputc('\n', script);
}

static void write_differences(FILE *script, const di_comparison *comparison, int64_t standard, const char *unit) {
    fputs("set title ", script);
    char title[512];
    snprintf(title, sizeof title, "Validation loss minus that of %s%s",
             di_comparison_label(&comparison->settings.parts[standard]),
             comparison->settings.seeds > 1 ? ", paired by seed (bars: standard error)" : "");
    write_quoted(script, title);
    fprintf(script,
            "\nset ylabel 'difference (%s)'\nset yrange [*:*]\nset xzeroaxis lt 1 lw 1.5 lc rgb '%s'\n"
            "unset key\nplot ",
            unit, colours[standard % COLOURS]);
    const char *comma = "";
    for (int64_t part = 0; part < comparison->settings.parts_count; part++)
        if (difference_drawn(comparison, part, standard)) {
            fprintf(script, "%s$difference%lld using 1:2:3 with yerrorlines lw 1.5 pt 7 ps 0.6 lc rgb '%s'", comma,
                    (long long)part, colours[part % COLOURS]);
            comma = ", ";
        }
    fputc('\n', script);
}

static void write_data(FILE *script, const di_comparison *comparison, int64_t standard) {
    for (int64_t part = 0; part < comparison->settings.parts_count; part++)
        if (drawn(comparison, part)) {
            write_curve(script, comparison, part, TRAINING, "training");
            write_curve(script, comparison, part, VALIDATION, "validation");
            if (difference_drawn(comparison, part, standard))
                write_difference(script, comparison, part, standard);
        }
}

static di_status draw(const char *script, size_t script_bytes, char **picture, size_t *bytes) {
    static const char *const command[] = {"gnuplot", "-", NULL};
    di_status status = di_process_run(command, script, script_bytes, picture, bytes);
    if (!status && *bytes == 0) {
        free(*picture);
        *picture = NULL;
        return di_fail(DI_EIO, "gnuplot: it drew nothing");
    }
    return status;
}

di_status di_plot_file(const di_exec *exec, const di_comparison *comparison, int64_t standard, const char *unit,
                       const char *path) {
    char *text = NULL, *picture = NULL;
    size_t text_bytes = 0, bytes = 0;
    if (parts_drawn(comparison) == 0)
        return di_fail(DI_ESTATE, "%s: no run was finished; there is nothing to draw", path);
    FILE *script = open_memstream(&text, &text_bytes);
    if (!script)
        return di_fail(DI_ENOMEM, "%s: out of memory for a picture", path);
    bool svg = strcmp(strrchr(path, '.'), ".svg") == 0;
    bool two = false;
    for (int64_t part = 0; part < comparison->settings.parts_count; part++)
        two |= difference_drawn(comparison, part, standard);
    write_data(script, comparison, standard);
    fprintf(script, "set terminal %s noenhanced background rgb 'white' size %s font 'DejaVu Sans,%d'\n",
            svg ? "svg" : "pngcairo", svg ? (two ? "900,760" : "900,480") : (two ? "1350,1140" : "1350,720"),
            svg ? 13 : 15);
    fprintf(script,
            "set border 3 lc rgb '#444444'\nset grid lt 1 lw 0.5 lc rgb '#dddddd'\nset tics nomirror\n"
            "set lmargin 11\nset rmargin 3\nset xrange [0:%.6g]\nset key samplen 2\n",
            1.01 * (double)comparison->settings.base.schedule.steps);
    if (two)
        fputs("set multiplot\nset size 1,0.58\nset origin 0,0.42\n", script);
    else
        fputs("set xlabel 'training step'\n", script);
    write_losses(script, comparison, unit);
    if (two) {
        fputs("set size 1,0.42\nset origin 0,0\nset xlabel 'training step'\n", script);
        write_differences(script, comparison, standard, unit);
        fputs("unset multiplot\n", script);
    }
    bool failed = fclose(script) != 0;
    di_status status =
        failed ? di_fail(DI_ENOMEM, "%s: out of memory for a picture", path) : draw(text, text_bytes, &picture, &bytes);
    if (!status)
        status = di_output_write(exec, path, picture, bytes);
    free(picture);
    free(text);
    return status;
}

/* ---- the terminal --------------------------------------------------------------------------------------------------
 */

di_status di_plot_terminal(di_cli *cli, const di_comparison *comparison, const char *unit) {
    char *text = NULL, *picture = NULL;
    size_t text_bytes = 0, bytes = 0;
    if (parts_drawn(comparison) == 0)
        return DI_OK;
    FILE *script = open_memstream(&text, &text_bytes);
    if (!script)
        return di_fail(DI_ENOMEM, "gnuplot: out of memory for a picture");
    double low, high;
    loss_range(comparison, &low, &high);
    for (int64_t part = 0; part < comparison->settings.parts_count; part++)
        if (drawn(comparison, part))
            write_curve(script, comparison, part, TRAINING, "training");
    int32_t columns = cli->columns > 120 ? 120 : cli->columns;
    fprintf(script,
            "set terminal dumb noenhanced size %d,20\nset border 3\nset tics nomirror\nset format y '%%.2f'\n"
            "set xlabel 'training step'\nset xrange [0:%lld]\nset yrange [%.6g:%.6g]\nset key top right\nplot ",
            columns - 1, (long long)comparison->settings.base.schedule.steps, low, high);
    const char *comma = "";
    for (int64_t part = 0; part < comparison->settings.parts_count; part++)
        if (drawn(comparison, part)) {
            fprintf(script, "%s$training%lld using 1:2 with lines title ", comma, (long long)part);
            write_quoted(script, di_comparison_label(&comparison->settings.parts[part]));
            comma = ", ";
        }
    fputc('\n', script);
    bool failed = fclose(script) != 0;
    di_status status =
        failed ? di_fail(DI_ENOMEM, "gnuplot: out of memory for a picture") : draw(text, text_bytes, &picture, &bytes);
    if (!status) {
        fprintf(cli->out, "Training loss (%s), mean over the seeds\n", unit);
        fputs(picture + strspn(picture, "\f\n"), cli->out);
    }
    free(picture);
    free(text);
    return status;
}
