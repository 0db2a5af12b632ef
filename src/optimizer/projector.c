/* SPDX-License-Identifier: Apache-2.0 */
/* What a projector makes of a parameter: shapes, state tensors, scratch. */
#include "core/parallel.h"
#include "kernels/gemm.h"
#include "optimizer/matrix.h"
#include "optimizer/natural.h"
#include "optimizer/projector_parts.h"
#include "optimizer/subspace.h"
#include <math.h>
#include <string.h>

static const di_projector *const list[] = {&di_galore, &di_natural_galore};

const di_projector *const *di_projector_list(int64_t *count) {
    *count = (int64_t)(sizeof list / sizeof *list);
    return list;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static di_status check_online(const di_projector_options *o) {
    if (o->basis_storage != DI_STORE_FULL)
        return di_fail(DI_EINVAL, "projector: basis_storage with basis=online, which moves the basis a little at each "
                                  "step; must be full");
    if (o->lazy_gap || o->stagger || o->on_refresh != DI_TURN_KEEP)
        return di_fail(DI_EINVAL, "projector: %s with basis=online, which is never refreshed",
                       o->lazy_gap  ? "lazy_gap"
                       : o->stagger ? "stagger"
                                    : "on_refresh");
    if (o->backward)
        return di_fail(DI_EINVAL, "projector: backward=projected with basis=online, which needs the gradient at each "
                                  "step; must be dense");
    return DI_OK;
}

di_status di_projector_check(const void *options) {
    const di_projector_options *o = options;
    if (o->rank >= 1 && o->rank != floor(o->rank))
        return di_fail(DI_ERANGE, "projector: rank=%g; must be a whole number, or a part below 1", o->rank);
    if (!isfinite(o->scale))
        return di_fail(DI_ERANGE, "projector: scale=%g; must be finite", o->scale);
    if (!o->lazy_gap && o->lazy_threshold != 0.4)
        return di_fail(DI_EINVAL, "projector: lazy_threshold=%g without lazy_gap", o->lazy_threshold);
    if (o->basis == DI_BASIS_RANDOM && (o->refresh != DI_REFRESH_AUTO || o->lazy_gap))
        return di_fail(DI_EINVAL, "projector: %s with basis=random, which looks at no gradient",
                       o->lazy_gap ? "lazy_gap" : "refresh");
    if ((o->basis == DI_BASIS_RANDOM || o->refresh == DI_REFRESH_EXACT) && (o->oversample != 16 || o->quality != 0.999))
        return di_fail(DI_EINVAL, "projector: %s is of a randomised refresh",
                       o->quality != 0.999 ? "quality" : "oversample");
    if (o->history == 1 && o->history_on_refresh != DI_HISTORY_CLEAR)
        return di_fail(DI_EINVAL, "projector: history_on_refresh with history=1, which keeps none");
    return o->basis == DI_BASIS_ONLINE ? check_online(o) : DI_OK;
}

/* Name and options of the text; *record NULL for none. */
static di_status read_text(const char *text, const di_projector **record, di_projector_options *options) {
    *record = NULL;
    memset(options, 0, sizeof *options);
    if (!text || !*text || strcmp(text, "none") == 0)
        return DI_OK;
    const di_part *parts[sizeof list / sizeof *list], *part = NULL;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        parts[i] = &list[i]->part;
    const char *rest = NULL;
    di_status status = di_part_find(parts, (int64_t)(sizeof list / sizeof *list), "projector", text, &part, &rest);
    if (!status)
        status = di_options_parse(part, rest, options);
    if (!status)
        *record = (const di_projector *)part;
    return status;
}

di_status di_projection_check(const char *text) {
    const di_projector *record;
    di_projector_options options;
    return read_text(text, &record, &options);
}

di_status di_projection_make(const char *text, const di_parameter *parameter, int64_t index, di_projection *p) {
    const di_projector *record;
    const di_tensor *value = &parameter->value;
    *p = (di_projection){.dtype = value->dtype == DI_F64 ? DI_F64 : DI_F32, .index = index};
    di_status status = read_text(text, &record, &p->options);
    di_projector_options *o = &p->options;
    int64_t count = di_tensor_count(value);
    if (status || !record || value->rank < 2 || count <= 0)
        return status;
    p->m = value->shape[0]; /* a convolution's [out, in, kh, kw] is out x (in kh kw) */
    p->n = count / p->m;
    int64_t side = di_min(p->m, p->n);
    if (side < o->min_dim)
        return DI_OK;
    p->rank = o->rank < 1 ? di_max(1, (int64_t)(o->rank * (double)side + 0.5)) : (int64_t)fmin(o->rank, (double)side);
    bool right = o->side == DI_SIDE_RIGHT || (o->side == DI_SIDE_STD && p->m >= p->n) ||
                 (o->side == DI_SIDE_REVERSE && p->m < p->n);
    p->right = right || o->side == DI_SIDE_FULL;
    p->left = !right || o->side == DI_SIDE_FULL;
    p->rows = p->left ? p->rank : p->m;
    p->columns = p->right ? p->rank : p->n;
    if (isnan(o->damping))
        o->damping = o->damping_mode ? 0.001 : 1;
    p->active = true;
    if (di_projection_work(&(di_exec){.threads = 1}, p) < 0)
        return di_fail(DI_ERANGE, "projector: %s is too large to project", parameter->name);
    return DI_OK;
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

static void place_basis(const di_projection *p, di_basis_place *place, bool used, int64_t length, int32_t *next) {
    *place = (di_basis_place){used, length, -1, -1, -1, -1};
    if (!used)
        return;
    place->basis = (*next)++;
    if (p->options.basis_storage == DI_STORE_INT4)
        place->range = (*next)++;
    if (p->options.basis == DI_BASIS_ONLINE) {
        place->mean = (*next)++;
        place->square = (*next)++;
    }
}

di_projection_places di_projection_where(const di_projection *p) {
    di_projection_places where = {.history = -1, .gram = -1, .length = -1, .position = -1, .cosines = -1};
    int32_t next = 0;
    where.gap = next++;
    where.last_refresh = next++;
    place_basis(p, &where.left, p->left, p->m, &next);
    place_basis(p, &where.right, p->right, p->n, &next);
    if (p->options.history > 1) {
        where.history = next++;
        where.gram = next++;
        where.length = next++;
        where.position = next++;
    }
    if (p->options.lazy_gap)
        where.cosines = next++;
    where.count = next;
    return where;
}

static di_status name(di_state_tensor *tensors, int32_t place, const char *word, di_dtype dtype, int64_t rows,
                      int64_t columns) {
    if (place < 0)
        return DI_OK;
    tensors[place].name = word;
    return di_tensor_make(&tensors[place].tensor, NULL, dtype, columns ? 2 : 1, (const int64_t[]){rows, columns});
}

static di_status name_basis(const di_projection *p, const di_basis_place *place, const char *const words[4],
                            di_state_tensor *tensors) {
    if (!place->used)
        return DI_OK;
    int64_t count = place->length * p->rank;
    int32_t storage = p->options.basis_storage;
    di_dtype dtype = storage == DI_STORE_BF16 ? DI_BF16 : p->dtype;
    di_status status = storage == DI_STORE_INT4 ? name(tensors, place->basis, words[0], DI_U8, di_pieces(count, 2), 0)
                                                : name(tensors, place->basis, words[0], dtype, place->length, p->rank);
    if (!status)
        status = name(tensors, place->range, words[1], DI_F32, di_pieces(count, DI_BASIS_GROUP), 2);
    if (!status)
        status = name(tensors, place->mean, words[2], p->dtype, place->length, p->rank);
    return status ? status : name(tensors, place->square, words[3], p->dtype, place->length, p->rank);
}

di_status di_projection_state(const di_projection *p, di_state_tensor *tensors, int32_t *count) {
    static const char *const left[] = {"basis_u", "basis_u_range", "basis_u_exp_avg", "basis_u_exp_avg_sq"};
    static const char *const right[] = {"basis_v", "basis_v_range", "basis_v_exp_avg", "basis_v_exp_avg_sq"};
    di_projection_places where = di_projection_where(p);
    int64_t elements = p->rows * p->columns, history = p->options.history;
    *count = where.count;
    di_status status = name_basis(p, &where.left, left, tensors);
    if (!status)
        status = name_basis(p, &where.right, right, tensors);
    if (!status)
        status = name(tensors, where.history, "history", p->dtype, history, elements);
    if (!status)
        status = name(tensors, where.gram, "gram", DI_F64, history, history);
    if (!status)
        status = name(tensors, where.length, "hist_len", DI_I64, 1, 0);
    if (!status)
        status = name(tensors, where.position, "hist_pos", DI_I64, 1, 0);
    if (!status)
        status = name(tensors, where.gap, "gap", DI_I64, 1, 0);
    if (!status)
        status = name(tensors, where.last_refresh, "last_refresh", DI_I64, 1, 0);
    return status ? status : name(tensors, where.cosines, "cosines", DI_F64, DI_LAZY_QUEUE + 1, 0);
}

/* ---- scratch ----------------------------------------------------------------------------------------------------- */

static int64_t product_work(const di_exec *exec, di_dtype dtype, int64_t m, int64_t n, int64_t k, bool a_transposed,
                            bool b_transposed) {
    di_product p = {.dtype = dtype, .m = m, .n = n, .k = k, .a_transposed = a_transposed, .b_transposed = b_transposed};
    return di_gemm_workspace(exec, &p);
}

/* The most that one of the products of a step takes. */
static int64_t products(const di_exec *exec, const di_projection *p) {
    int64_t r = p->rank, most = 0, longest = di_max(p->m, p->n);
    int64_t each[] = {
        product_work(exec, p->dtype, p->m, r, p->n, false, false),        /* G V, P V */
        product_work(exec, p->dtype, r, p->n, p->m, true, false),         /* Uᵀ G */
        product_work(exec, p->dtype, p->n, r, p->m, true, false),         /* Gᵀ U */
        product_work(exec, p->dtype, p->m, p->n, r, false, true),         /* D Vᵀ */
        product_work(exec, p->dtype, p->m, p->n, r, false, false),        /* U D */
        product_work(exec, p->dtype, r, r, longest, true, false),         /* oldᵀ new, Uᵀ (G V) */
        product_work(exec, p->dtype, r, di_max(r, p->n), r, true, false), /* turning a mean */
        product_work(exec, p->dtype, p->m, r, r, false, false),
        product_work(exec, p->dtype, longest, r, r, false, false),
    };
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        most = di_max(most, each[i]);
    return most;
}

/* What lies behind the pieces: of products, of a refresh, of an online step. */
static int64_t rest_bytes(const di_exec *exec, const di_projection *p) {
    di_subspace refresh = di_projection_subspace(p);
    int64_t subspace = di_subspace_workspace(exec, &refresh);
    int64_t online = p->options.basis == DI_BASIS_ONLINE ? di_projection_follow_work(exec, p) : 0;
    return subspace < 0 || online < 0 ? -1 : di_max(products(exec, p), di_max(subspace, online));
}

static bool cut(char *base, int64_t *used, int64_t count, int64_t each, void **place) {
    int64_t bytes;
    if (*used < 0 || !di_size_multiply(count, each, &bytes) || bytes > INT64_MAX / 8 || *used > INT64_MAX / 4) {
        *used = -1;
        return false;
    }
    *place = base && count > 0 ? base + *used : NULL;
    *used += di_round64(bytes);
    return true;
}

di_projection_scratch di_projection_cut(const di_exec *exec, const di_projection *p, char *base) {
    di_projection_scratch x = {.bytes = -1};
    int64_t used = 0, each = di_dtype_bytes(p->dtype), r = p->rank, tall, turned;
    int64_t left = p->left ? p->m : 0, right = p->right ? p->n : 0;
    if (!di_size_multiply(di_max(p->m, p->n), r, &tall) || !di_size_multiply(p->rows, p->columns, &turned))
        return x;
    bool packed = p->options.basis_storage != DI_STORE_FULL;
    void *natural = NULL;
    int64_t doubles = p->options.history > 0 ? di_natural_work(turned, p->options.history) : 0;
    bool fits = cut(base, &used, packed ? left * r : 0, each, &x.left) &&
                cut(base, &used, packed ? right * r : 0, each, &x.right) &&
                cut(base, &used, left * r, each, &x.fresh_left) && cut(base, &used, right * r, each, &x.fresh_right) &&
                cut(base, &used, p->left ? r * r : 0, each, &x.turn_left) &&
                cut(base, &used, p->right ? r * r : 0, each, &x.turn_right) &&
                cut(base, &used, p->left ? r * r : 0, each, &x.square_left) &&
                cut(base, &used, p->right ? r * r : 0, each, &x.square_right) &&
                cut(base, &used, di_max(tall, turned), each, &x.middle) && doubles >= 0 &&
                cut(base, &used, doubles, 1, &natural);
    int64_t rest = fits ? rest_bytes(exec, p) : -1;
    if (rest < 0)
        return x;
    x.natural = natural;
    if (base) {
        x.rest = *exec;
        x.rest.work = base + used;
        x.rest.work_bytes = (size_t)rest;
    }
    x.bytes = di_round64(used + rest);
    return x;
}

int64_t di_projection_work(const di_exec *exec, const di_projection *p) {
    return p->active ? di_projection_cut(exec, p, NULL).bytes : 0;
}
