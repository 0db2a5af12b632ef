/* SPDX-License-Identifier: Apache-2.0 */
/* How bases are kept: as they are, as bf16, or as 4-bit codes (Q-GaLore): groups of 256 along the flattened basis, two
 * codes a byte, the even element low; value = (code - zero) scale. Q-GaLore clamps `zero` to a code, which is wrong for
 * a group that lies on one side of 0; here it is any whole number. */
#include "core/parallel.h"
#include "optimizer/matrix.h"
#include "optimizer/projector_parts.h"
#include <math.h>
#include <string.h>

enum { TOP = 15 }; /* the largest code */

static void encode_group(const double *x, int64_t count, uint8_t *codes, float *range) {
    double low = x[0], high = x[0];
    for (int64_t i = 1; i < count; i++) {
        low = fmin(low, x[i]);
        high = fmax(high, x[i]);
    }
    float scale = (float)(fmax(high - low, 1e-5) / TOP);
    double zero = -rint(low / (double)scale);
    range[0] = scale;
    range[1] = (float)zero;
    for (int64_t i = 0; i < count; i++) {
        uint8_t code = (uint8_t)fmin(fmax(rint(x[i] / (double)scale) + zero, 0), TOP);
        codes[i / 2] = i % 2 ? (uint8_t)(codes[i / 2] | code << 4) : code;
    }
}

static void decode_group(const uint8_t *codes, int64_t count, const float *range, double *x) {
    for (int64_t i = 0; i < count; i++)
        x[i] = ((double)(codes[i / 2] >> i % 2 * 4 & TOP) - (double)range[1]) * (double)range[0];
}

static void encode(const di_projection *p, const di_state_tensor *state, const di_basis_place *place,
                   const void *basis) {
    int64_t count = place->length * p->rank, each = di_dtype_bytes(p->dtype);
    double group[DI_BASIS_GROUP];
    for (int64_t first = 0; first < count; first += DI_BASIS_GROUP) {
        int64_t width = di_min(DI_BASIS_GROUP, count - first);
        di_matrix_of(p->dtype)->widen((const char *)basis + first * each, width, 1, width, 1, group);
        encode_group(group, width, (uint8_t *)state[place->basis].tensor.data + first / 2,
                     (float *)state[place->range].tensor.data + first / DI_BASIS_GROUP * 2);
    }
}

static void decode(const di_projection *p, const di_state_tensor *state, const di_basis_place *place, void *basis) {
    int64_t count = place->length * p->rank, each = di_dtype_bytes(p->dtype);
    double group[DI_BASIS_GROUP];
    for (int64_t first = 0; first < count; first += DI_BASIS_GROUP) {
        int64_t width = di_min(DI_BASIS_GROUP, count - first);
        decode_group((const uint8_t *)state[place->basis].tensor.data + first / 2, width,
                     (const float *)state[place->range].tensor.data + first / DI_BASIS_GROUP * 2, group);
        di_matrix_of(p->dtype)->narrow(group, width, (char *)basis + first * each);
    }
}

static di_status copy(const di_projection *p, const di_state_tensor *state, const di_basis_place *place, void *basis,
                      bool into_state) {
    di_tensor dense, kept = state[place->basis].tensor;
    di_status status = di_tensor_make(&dense, basis, p->dtype, 2, (const int64_t[]){place->length, p->rank});
    return status ? status : di_tensor_copy(into_state ? &kept : &dense, into_state ? &dense : &kept);
}

static di_status unpack(const di_projection *p, const di_state_tensor *state, const di_basis_place *place,
                        void *scratch, const void **basis) {
    *basis = NULL;
    if (!place->used)
        return DI_OK;
    if (p->options.basis_storage == DI_STORE_FULL) {
        *basis = state[place->basis].tensor.data;
        return DI_OK;
    }
    *basis = scratch;
    if (p->options.basis_storage == DI_STORE_BF16)
        return copy(p, state, place, scratch, false);
    decode(p, state, place, scratch);
    return DI_OK;
}

di_status di_projection_bases(const di_projection *p, const di_state_tensor *state,
                              const di_projection_scratch *scratch, di_bases *bases) {
    di_projection_places where = di_projection_where(p);
    di_status status = unpack(p, state, &where.left, scratch->left, &bases->left);
    return status ? status : unpack(p, state, &where.right, scratch->right, &bases->right);
}

static di_status pack(const di_projection *p, const di_state_tensor *state, const di_basis_place *place, void *fresh) {
    if (!place->used)
        return DI_OK;
    if (p->options.basis_storage == DI_STORE_INT4) {
        encode(p, state, place, fresh);
        return DI_OK;
    }
    return copy(p, state, place, fresh, true);
}

di_status di_projection_store(const di_projection *p, const di_state_tensor *state,
                              const di_projection_scratch *scratch) {
    di_projection_places where = di_projection_where(p);
    di_status status = pack(p, state, &where.left, scratch->fresh_left);
    return status ? status : pack(p, state, &where.right, scratch->fresh_right);
}
