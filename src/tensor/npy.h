/* SPDX-License-Identifier: Apache-2.0 */
/* What the reader, the writer and the header's parser of npy files share. The format (numpy.lib.format):
 *
 *     8 bytes       "\x93NUMPY", major and minor version: 1.0, 2.0 or 3.0
 *     2 or 4 bytes  N, little-endian; 4 from version 2 on
 *     N bytes       a Python dictionary, padded with spaces, ending in a newline:
 *                   {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
 *     the rest      the array's bytes
 */
#ifndef DI_TENSOR_NPY_H
#define DI_TENSOR_NPY_H

#include <dropin/npy.h>

enum {
    DI_NPY_PREFIX = 12,          /* bytes that every file has: an empty array needs far more */
    DI_NPY_HEADER_LIMIT = 65536, /* bytes of the dictionary; 8 axes need 250 */
    DI_NPY_HEADER_ROOM = 512     /* bytes of the longest header that we write, prefix and padding included */
};

/* "<f4" … */
const char *di_npy_descr(di_dtype dtype);

/* Reads the dictionary: dtype, shape and strides into *tensor, whose data is NULL. `version` is the major one. Neither
 * is the text trusted nor does it end in a 0. */
DI_CHECKED di_status di_npy_parse(const char *path, int version, const char *text, size_t bytes, di_tensor *tensor);

/* Writes prefix, dictionary and padding; returns the bytes, a multiple of 64. */
size_t di_npy_print(const di_tensor *tensor, char text[DI_NPY_HEADER_ROOM]);

#endif
