/* SPDX-License-Identifier: Apache-2.0 */
/* di_gemm and di_gemm_stream: checks, scratch, and the split over threads.
 *
 * The products are our own, not BLAS. The bits of a row may depend on nothing but the row, and OpenBLAS breaks that on
 * AVX2 machines: its Haswell and Zen sgemm gives equal rows other bits at places 6 … 11 of each dozen than at 0 … 5,
 * whatever the height of the call (0.3.21; the AVX-512 kernels do not). */
#include "core/parallel.h"
#include "kernels/gemm_tables.h"

enum {
    PLAIN_ROWS = 16,          /* rows of a task of the reference */
    PACKED_ELEMENTS = 1 << 20 /* of B at once: bounds the scratch; wider matrices go chunk by chunk */
};

typedef struct job {
    const di_product *product;
    const di_gemm_table *table;
    char *packed, *scratch;          /* the chunk of B; one block of A for each worker */
    int64_t column, columns, chunk;  /* the chunk: place in C, with padding */
    int64_t pack_rows, pack_columns; /* of a packing task */
    int64_t tile_rows, tile_columns; /* of a tile */
    int64_t row_tiles;               /* tiles run down the rows first, so that neighbours share B */
} job;

static di_status check(const di_product *p) {
    if (p->dtype != DI_F32 && p->dtype != DI_F64)
        return di_fail(DI_EDTYPE, "gemm: dtype=%s; must be f32 or f64", di_dtype_name(p->dtype));
    if (p->m < 0 || p->n < 0 || p->k < 0)
        return di_fail(DI_ERANGE, "gemm: m=%lld, n=%lld, k=%lld; must be 0 or more", (long long)p->m, (long long)p->n,
                       (long long)p->k);
    int64_t a_width = p->a_transposed ? p->m : p->k, b_width = p->b_transposed ? p->k : p->n;
    if (p->lda < a_width || p->ldb < b_width || p->ldc < p->n)
        return di_fail(DI_ERANGE, "gemm: lda=%lld, ldb=%lld, ldc=%lld; must be at least %lld, %lld, %lld",
                       (long long)p->lda, (long long)p->ldb, (long long)p->ldc, (long long)a_width, (long long)b_width,
                       (long long)p->n);
    if (p->m > 0 && p->n > 0 && (!p->c || (p->k > 0 && (!p->a || !p->b))))
        return di_fail(DI_EINVAL, "gemm: a, b or c is NULL");
    return DI_OK;
}

/* Columns that are packed at once: whole panels. */
static int64_t chunk_columns(const di_product *p, int64_t panel) {
    int64_t most = di_max(PACKED_ELEMENTS / di_max(p->k, 1) / panel, 1) * panel;
    return di_min(most, di_pieces(p->n, panel) * panel);
}

static int64_t packed_bytes(const di_product *p, int64_t panel) {
    return di_round64(chunk_columns(p, panel) * p->k * di_dtype_bytes(p->dtype));
}

static int64_t scratch_bytes(const di_product *p) {
    return p->a_transposed ? di_round64(DI_GEMM_ROWS * DI_GEMM_DEPTH * di_dtype_bytes(p->dtype)) : 0;
}

int64_t di_gemm_workspace(const di_exec *exec, const di_product *p) {
    int64_t panel = di_gemm_of(p->dtype, exec->level)->panel;
    if (!panel || p->m == 0 || p->n == 0 || p->k == 0)
        return 0;
    return packed_bytes(p, panel) + exec->threads * scratch_bytes(p);
}

static di_status plain_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *x = user;
    int64_t first = index * PLAIN_ROWS;
    x->table->rows(x->product, first, di_min(PLAIN_ROWS, x->product->m - first));
    return DI_OK;
}

static di_status pack_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const job *x = user;
    const di_product *p = x->product;
    int64_t depth = di_gemm_depth(p->k), blocks = di_pieces(p->k, depth), pieces = di_pieces(depth, x->pack_rows);
    int64_t l = index % blocks * depth, t = index / blocks % pieces * x->pack_rows;
    int64_t j = index / blocks / pieces * x->pack_columns;
    depth = di_min(depth, p->k - l);
    if (t < depth) {
        int64_t at = l * x->chunk + j * depth + t * x->table->panel;
        x->table->pack(p, x->column + j, di_min(x->pack_columns, x->columns - j), l + t,
                       di_min(x->pack_rows, depth - t), depth, x->packed + at * di_dtype_bytes(p->dtype));
    }
    return DI_OK;
}

static di_status tile_task(void *user, int64_t index, int32_t worker) {
    const job *x = user;
    const di_product *p = x->product;
    int64_t row = index % x->row_tiles * x->tile_rows, j = index / x->row_tiles * x->tile_columns;
    x->table->tile(p, row, di_min(x->tile_rows, p->m - row), x->column + j, di_min(x->tile_columns, x->columns - j),
                   x->packed, x->chunk, j, x->scratch + worker * scratch_bytes(p));
    return DI_OK;
}

/* One chunk of columns: pack it, then all tiles. Tiles and pieces may have any size without a word in the result. */
static di_status chunk(const di_exec *exec, job *x) {
    const di_product *p = x->product;
    int64_t panel = x->table->panel, panels = di_pieces(x->columns, panel), depth = di_gemm_depth(p->k);
    x->chunk = panels * panel;
    if (p->k > 0) {
        /* along the rows of B as they lie in memory, some 32768 elements each */
        x->pack_columns = p->b_transposed ? di_max(32768 / panel / depth, 1) * panel : x->chunk;
        x->pack_rows = p->b_transposed ? depth : di_max(32768 / x->chunk / 8 * 8, 8);
        di_status status = di_parallel(
            exec, di_pieces(p->k, depth) * di_pieces(depth, x->pack_rows) * di_pieces(x->columns, x->pack_columns),
            pack_task, x);
        if (status)
            return status;
    }
    x->tile_columns = di_pieces(panels, di_min(panels, di_pieces(2 * exec->threads, x->row_tiles))) * panel;
    return di_parallel(exec, x->row_tiles * di_pieces(x->columns, x->tile_columns), tile_task, x);
}

di_status di_gemm(const di_exec *exec, const di_product *p) {
    di_status status = check(p);
    if (status)
        return status;
    if (p->m == 0 || p->n == 0)
        return DI_OK;
    job x = {.product = p, .table = di_gemm_of(p->dtype, exec->level)};
    if (!x.table->panel)
        return di_parallel(exec, di_pieces(p->m, PLAIN_ROWS), plain_task, &x);
    int64_t work = di_gemm_workspace(exec, p), panel = x.table->panel;
    if (work > 0 && (!exec->work || (int64_t)exec->work_bytes < work))
        return di_fail(DI_EINVAL, "gemm: work_bytes=%lld; must be at least %lld",
                       (long long)(exec->work ? exec->work_bytes : 0), (long long)work);
    x.packed = exec->work;
    x.scratch = p->k && exec->work ? x.packed + packed_bytes(p, panel) : NULL;
    x.row_tiles = di_pieces(p->m, DI_GEMM_ROWS);
    if (p->a_transposed) /* a tile packs its rows of A: more tiles by fewer rows, before fewer columns */
        x.row_tiles = di_max(x.row_tiles, di_min(2 * exec->threads, di_pieces(p->m, 12)));
    x.tile_rows = di_pieces(di_pieces(p->m, x.row_tiles), 6) * 6;
    x.row_tiles = di_pieces(p->m, x.tile_rows);
    int64_t step = chunk_columns(p, panel);
    for (x.column = 0; x.column < p->n && !status; x.column += step) {
        x.columns = di_min(step, p->n - x.column);
        status = chunk(exec, &x);
    }
    return status;
}

/* ---- few rows ------------------------------------------------------------------------------------------------- */

/* Columns of a task: a piece of B of some 256 KB, so that small matrices stay on one thread; a multiple of 32. */
static int64_t stream_columns(const di_product *p) {
    int64_t column_bytes = di_max(p->k * di_dtype_bytes(p->dtype), 1);
    return di_min(di_max((262144 / column_bytes + 31) / 32 * 32, 32), 65536);
}

typedef struct stream_job {
    const di_product *product;
    const di_stream_table *table;
    int64_t columns;
} stream_job;

static di_status stream_task(void *user, int64_t index, int32_t worker) {
    (void)worker;
    const stream_job *x = user;
    int64_t first = index * x->columns;
    x->table->columns(x->product, first, di_min(x->columns, x->product->n - first));
    return DI_OK;
}

di_status di_gemm_stream(const di_exec *exec, const di_product *p) {
    di_status status = check(p);
    if (status)
        return status;
    if (p->m > DI_STREAM_ROWS || p->a_transposed)
        return di_fail(DI_ERANGE, "gemm_stream: m=%lld%s; at most %d rows, not transposed", (long long)p->m,
                       p->a_transposed ? ", transposed" : "", DI_STREAM_ROWS);
    if (p->shrink != 0)
        return di_fail(DI_EUNSUPPORTED, "gemm_stream: shrink=%g; must be 0", p->shrink);
    if (p->m == 0 || p->n == 0)
        return DI_OK;
    stream_job x = {p, di_stream_of(p->dtype, exec->level), stream_columns(p)};
    return di_parallel(exec, di_pieces(p->n, x.columns), stream_task, &x);
}
