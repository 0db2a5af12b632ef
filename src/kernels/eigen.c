/* SPDX-License-Identifier: Apache-2.0 */
/* Householder tridiagonalisation and implicit QL with Wilkinson's shift (Golub and Van Loan, Matrix Computations, 8.3).
 *
 * What makes it fast: each step of the reduction passes over the rest of the matrix once (the update of the step before
 * and the product with the new vector together); the vectors lie in panels of PANEL components, and rotations are
 * written down and then applied panel by panel, so that a panel stays in cache and panels go to threads. Nothing of
 * that changes the order of operations on any one number. */
#include "kernels/eigen.h"
#include "core/parallel.h"
#include "kernels/dot.h"
#include <float.h>
#include <math.h>
#include <string.h>

enum {
    PANEL = 16, /* components of all vectors that lie together */
    PAIRS = PANEL / 2,
    SWEEPS = 32,    /* n rotations each, written down before they are applied */
    ROWS = 64,      /* of a task of the reduction */
    SHARED = 512,   /* rows from which a step of the reduction is worth a fork */
    ITERATIONS = 60 /* of QL for one eigenvalue; three are usual */
};

/* Two numbers at a time, as every x86-64 and AArch64 has them. */
typedef double pair __attribute__((vector_size(16), aligned(8), may_alias));

typedef struct rotation {
    double c, s;
    int64_t row; /* turns rows `row` and row + 1 */
} rotation;

typedef struct eigen {
    int64_t n, panels;
    double *a, *d, *e, *tau;
    double *v, *w;       /* the update that rows from j + 1 on still wait for: A -= v wᵀ + w vᵀ */
    double *next, *p;    /* the new vector, and A next */
    double *z;           /* [panels][n][PANEL]: row i is vector i */
    rotation *rotations; /* [SWEEPS n] */
    int64_t rotated, j;
    double negligible; /* an off-diagonal that the matrix as a whole does not feel */
    bool fresh;        /* z is not yet filled */
} eigen;

static double magnitude(double a, double b) {
    a = fabs(a);
    b = fabs(b);
    double large = a > b ? a : b, small = a > b ? b : a;
    if (large == 0)
        return 0;
    small /= large;
    return large * sqrt(1 + small * small);
}

/* ---- reduction -------------------------------------------------------------------------------------------------- */

/* row -= vi w + wi v over columns first … n-1; returns row · next. */
static double update_row(const eigen *x, double *row, double vi, double wi, int64_t first) {
    const double *v = x->v, *w = x->w, *next = x->next;
    double sum[DI_DOT_LANES] = {0};
    int64_t c = first;
    for (; c + DI_DOT_LANES <= x->n; c += DI_DOT_LANES)
        for (int l = 0; l < DI_DOT_LANES; l++) {
            double t = row[c + l] - (vi * w[c + l] + wi * v[c + l]);
            row[c + l] = t;
            sum[l] += t * next[c + l];
        }
    for (int l = 0; c < x->n; c++, l++) {
        double t = row[c] - (vi * w[c] + wi * v[c]);
        row[c] = t;
        sum[l] += t * next[c];
    }
    return di_add_lanes(sum);
}

static di_status reduce_rows(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const eigen *x = user;
    int64_t first = x->j + 1 + index * ROWS, end = di_min(first + ROWS, x->n);
    for (int64_t i = first; i < end; i++)
        x->p[i] = update_row(x, x->a + i * x->n, x->v[i], x->w[i], x->j + 1);
    return DI_OK;
}

/* The reflection I - tau u uᵀ, u_first = 1, that takes row[first …] to (alpha, 0 …); u over next[first …]. */
static double reflect(const double *row, int64_t first, int64_t n, double *next, double *alpha) {
    double tail = di_dot(row + first + 1, row + first + 1, n - first - 1), head = row[first];
    next[first] = 1;
    if (tail == 0) {
        memset(next + first + 1, 0, (size_t)(n - first - 1) * sizeof *next);
        *alpha = head;
        return 0;
    }
    *alpha = head > 0 ? -sqrt(head * head + tail) : sqrt(head * head + tail);
    double scale = 1 / (head - *alpha);
    for (int64_t c = first + 1; c < n; c++)
        next[c] = row[c] * scale;
    return (*alpha - head) / *alpha;
}

/* T = Qᵀ A Q, diagonal d, off-diagonal e. Row j of a keeps the vector of reflection j from column j + 1 on. */
static di_status reduce(const di_exec *exec, eigen *x) {
    int64_t n = x->n;
    memset(x->v, 0, (size_t)n * sizeof *x->v);
    memset(x->w, 0, (size_t)n * sizeof *x->w);
    memset(x->next, 0, (size_t)n * sizeof *x->next);
    di_exec one = *exec;
    one.threads = 1;
    for (x->j = 0; x->j < n; x->j++) {
        int64_t j = x->j;
        double *row = x->a + j * n;
        (void)update_row(x, row, x->v[j], x->w[j], j);
        x->d[j] = row[j];
        x->e[j] = j + 1 < n ? row[j + 1] : 0;
        x->tau[j] = 0;
        if (j + 1 >= n)
            break;
        x->tau[j] = reflect(row, j + 1, n, x->next, &x->e[j]);
        di_status status = di_parallel(n - j > SHARED ? exec : &one, di_pieces(n - j - 1, ROWS), reduce_rows, x);
        if (status)
            return status;
        double tau = x->tau[j], half = 0.5 * tau * tau * di_dot(x->p + j + 1, x->next + j + 1, n - j - 1);
        for (int64_t c = j + 1; c < n; c++) {
            x->v[c] = row[c] = x->next[c];
            x->w[c] = tau * x->p[c] - half * x->next[c];
        }
    }
    return DI_OK;
}

/* ---- vectors ---------------------------------------------------------------------------------------------------- */

/* Qᵀ = H_(n-2) … H_1 H_0, on the columns of the identity that lie in this panel. */
static void begin_panel(const eigen *x, int64_t panel, double *z) {
    int64_t n = x->n;
    memset(z, 0, (size_t)(n * PANEL) * sizeof *z);
    for (int64_t c = 0; c < PANEL && panel * PANEL + c < n; c++)
        z[(panel * PANEL + c) * PANEL + c] = 1;
    for (int64_t j = 0; j + 1 < n; j++) {
        const double *u = x->a + j * n;
        pair sum[PAIRS] = {0}, *row = (pair *)(z + (j + 1) * PANEL);
        if (x->tau[j] == 0)
            continue;
        for (int64_t i = j + 1; i < n; i++, row += PAIRS)
            for (int c = 0; c < PAIRS; c++)
                sum[c] += u[i] * row[c];
        for (int c = 0; c < PAIRS; c++)
            sum[c] *= x->tau[j];
        row = (pair *)(z + (j + 1) * PANEL);
        for (int64_t i = j + 1; i < n; i++, row += PAIRS)
            for (int c = 0; c < PAIRS; c++)
                row[c] -= u[i] * sum[c];
    }
}

static di_status turn_panel(void *user, int64_t panel, int32_t worker) {
    (void)worker;
    const eigen *x = user;
    double *z = x->z + panel * x->n * PANEL;
    if (x->fresh)
        begin_panel(x, panel, z);
    for (int64_t k = 0; k < x->rotated; k++) {
        const rotation *r = &x->rotations[k];
        pair *low = (pair *)(z + r->row * PANEL), *high = low + PAIRS;
        for (int c = 0; c < PAIRS; c++) {
            pair f = high[c], g = low[c];
            high[c] = r->s * g + r->c * f;
            low[c] = r->c * g - r->s * f;
        }
    }
    return DI_OK;
}

static di_status flush(const di_exec *exec, eigen *x) {
    di_status status = x->z ? di_parallel(exec, x->panels, turn_panel, x) : DI_OK;
    x->rotated = 0;
    x->fresh = false;
    return status;
}

/* ---- QL ---------------------------------------------------------------------------------------------------------- */

/* One sweep over the unreduced block l … m. */
static void sweep(eigen *x, int64_t l, int64_t m) {
    double *d = x->d, *e = x->e;
    double g = (d[l + 1] - d[l]) / (2 * e[l]), r = magnitude(g, 1);
    g = d[m] - d[l] + e[l] / (g + (g < 0 ? -r : r));
    double s = 1, c = 1, p = 0;
    for (int64_t i = m - 1; i >= l; i--) {
        double f = s * e[i], b = c * e[i];
        r = magnitude(f, g);
        e[i + 1] = r;
        if (r == 0) { /* the block fell apart here */
            d[i + 1] -= p;
            e[m] = 0;
            return;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        x->rotations[x->rotated++] = (rotation){c, s, i};
    }
    d[l] -= p;
    e[l] = g;
    e[m] = 0;
}

/* Small beside its neighbours, or beside the whole matrix: the noise that a matrix without full rank leaves below its
 * large entries would turn for ever. */
static bool split(const eigen *x, int64_t m) {
    double near = fabs(x->d[m]) + fabs(x->d[m + 1]);
    return fabs(x->e[m]) <= 0.5 * DBL_EPSILON * near + x->negligible;
}

static di_status ql(const di_exec *exec, eigen *x) {
    double norm = 0;
    for (int64_t i = 0; i < x->n; i++)
        norm = fmax(norm, fabs(x->d[i]) + fabs(x->e[i]));
    x->negligible = 0.25 * DBL_EPSILON * norm;
    for (int64_t l = 0; l < x->n; l++)
        for (int iteration = 0;; iteration++) {
            int64_t m = l;
            while (m + 1 < x->n && !split(x, m))
                m++;
            if (m == l)
                break;
            if (iteration == ITERATIONS)
                return di_fail(DI_ESTATE, "eigen: value %lld of %lld did not converge in %d sweeps", (long long)l,
                               (long long)x->n, ITERATIONS);
            if (x->rotated + x->n > SWEEPS * x->n) {
                di_status status = flush(exec, x);
                if (status)
                    return status;
            }
            sweep(x, l, m);
        }
    return flush(exec, x);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

void di_sign_rule(double *x, int64_t count, int64_t stride) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++)
        if (fabs(x[i * stride]) > fabs(largest))
            largest = x[i * stride];
    for (int64_t i = 0; i < count && largest < 0; i++)
        x[i * stride] = -x[i * stride];
}

/* Heapsort of indices: values falling, equal ones by index; nothing to allocate. */
static bool before(const double *values, int64_t a, int64_t b) {
    return values[a] > values[b] || (values[a] == values[b] && a < b);
}

static void sift(const double *values, int64_t *order, int64_t root, int64_t count) {
    for (int64_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && before(values, order[child], order[child + 1]))
            child++;
        if (!before(values, order[root], order[child]))
            return;
        int64_t held = order[root];
        order[root] = order[child];
        order[child] = held;
    }
}

static void sort(const double *values, int64_t *order, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        order[i] = i;
    for (int64_t root = count / 2 - 1; root >= 0; root--)
        sift(values, order, root, count);
    for (int64_t end = count - 1; end > 0; end--) {
        int64_t held = order[0];
        order[0] = order[end];
        order[end] = held;
        sift(values, order, 0, end);
    }
}

int64_t di_eigen_workspace(int64_t n) {
    int64_t cells, vectors;
    if (n < 0 || !di_size_multiply(n, di_pieces(n, PANEL) * PANEL, &vectors) ||
        !di_size_multiply(n, 7 + SWEEPS * (int64_t)(sizeof(rotation) / sizeof(double)), &cells) ||
        !di_size_add(cells, vectors, &cells) || !di_size_multiply(cells, sizeof(double), &cells))
        return -1;
    return cells > INT64_MAX - 64 ? -1 : di_round64(cells);
}

/* The power of two that brings the largest entry into [1/2, 1), where squares neither vanish nor overflow; 0 for a
 * matrix of zeros, NaN where an entry is not finite. */
static double unit(const double *a, int64_t count) {
    double largest = 0, poison = 0;
    for (int64_t i = 0; i < count; i++) {
        largest = fabs(a[i]) > largest ? fabs(a[i]) : largest;
        poison += a[i] * 0;
    }
    int exponent;
    (void)frexp(largest, &exponent);
    return poison != 0   ? NAN
           : largest > 0 ? ldexp(1, exponent > 1000    ? -1000
                                    : exponent < -1000 ? 1000
                                                       : -exponent)
                         : 0;
}

static void write_out(const eigen *x, double back, const int64_t *order, double *values, int64_t count,
                      double *vectors) {
    int64_t n = x->n;
    for (int64_t i = 0; i < n; i++)
        values[i] = x->d[order[i]] * back;
    for (int64_t i = 0; i < count; i++) {
        for (int64_t c = 0; c < n; c++)
            vectors[i * n + c] = x->z[(c / PANEL * n + order[i]) * PANEL + c % PANEL];
        di_sign_rule(vectors + i * n, n, 1);
    }
}

di_status di_eigen_symmetric(const di_exec *exec, int64_t n, double *a, double *values, int64_t count,
                             double *vectors) {
    if (!exec || n < 0 || count < 0 || count > n || (n > 0 && (!a || !values)) || (count > 0 && !vectors))
        return di_fail(DI_EINVAL, "eigen: n=%lld, count=%lld; exec, a, values and vectors must be there, count 0 … n",
                       (long long)n, (long long)count);
    int64_t need = di_eigen_workspace(n);
    if (need < 0 || (need > 0 && (!exec->work || (int64_t)exec->work_bytes < need)))
        return di_fail(DI_EINVAL, "eigen: work_bytes=%lld; must be at least %lld",
                       (long long)(exec->work ? exec->work_bytes : 0), (long long)need);
    double scale = unit(a, n * n);
    if (isnan(scale))
        return di_fail(DI_EINVAL, "eigen: the matrix holds NaN or infinity");
    if (n == 0)
        return DI_OK;
    for (int64_t i = 0; i < n * n && scale > 0; i++)
        a[i] *= scale;
    eigen x = {.n = n, .panels = di_pieces(n, PANEL), .a = a, .fresh = true};
    double *next = exec->work;
    double **const places[] = {&x.d, &x.e, &x.tau, &x.v, &x.w, &x.next, &x.p};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++, next += n)
        *places[i] = next;
    x.rotations = (rotation *)next;
    next += SWEEPS * n * (int64_t)(sizeof(rotation) / sizeof(double));
    x.z = count > 0 ? next : NULL;
    di_status status = reduce(exec, &x);
    if (!status)
        status = ql(exec, &x);
    if (status)
        return status;
    int64_t *order = (int64_t *)x.v; /* v is spent */
    sort(x.d, order, n);
    write_out(&x, scale > 0 ? 1 / scale : 0, order, values, count, vectors);
    return DI_OK;
}
