/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel tables. A *_plain.c file is compiled for float and double, a *_fast.c file for both at every level, with
 * DI_REAL, DI_SUFFIX (f32_avx2) and DI_LEVEL (1 base, 2 avx2) set by the build. Each exports one constant table:
 *
 *     const di_rows_table DI_TABLE(di_rows) = { … };          at the foot of rows_plain.c and rows_fast.c
 *     DI_TABLES(di_rows_table, di_rows)                       in rows.h: declares them and di_rows_of(dtype, level)
 */
#ifndef DI_CORE_TABLES_H
#define DI_CORE_TABLES_H

#include <dropin/tensor.h>

#define DI_PASTE_(name, suffix) name##_##suffix
#define DI_PASTE(name, suffix)  DI_PASTE_(name, suffix)
#define DI_TABLE(name)          DI_PASTE(name, DI_SUFFIX)

#ifdef DI_HAVE_AVX2
#define DI_AVX2_TABLES(type, name)  extern const type name##_f32_avx2, name##_f64_avx2;
#define DI_AVX2_ENTRY(name, suffix) &name##_##suffix##_avx2
#else
#define DI_AVX2_TABLES(type, name)
#define DI_AVX2_ENTRY(name, suffix) &name##_##suffix##_base
#endif

#define DI_TABLES(type, name)                                                                                          \
    extern const type name##_f32_plain, name##_f64_plain, name##_f32_base, name##_f64_base;                            \
    DI_AVX2_TABLES(type, name)                                                                                         \
    static inline const type *name##_of(di_dtype dtype, di_level level) {                                              \
        static const type *const tables[2][DI_LEVELS] = {                                                              \
            {&name##_f32_plain, &name##_f32_base, DI_AVX2_ENTRY(name, f32)},                                           \
            {&name##_f64_plain, &name##_f64_base, DI_AVX2_ENTRY(name, f64)}};                                          \
        return tables[dtype == DI_F64][level];                                                                         \
    }

#endif
