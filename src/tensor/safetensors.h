/* SPDX-License-Identifier: Apache-2.0 */
/* What the reader and the writer of safetensors files share. The format (https://github.com/huggingface/safetensors):
 *
 *     8 bytes   N, little-endian
 *     N bytes   JSON, UTF-8, starts with '{', may end in spaces:
 *               {"__metadata__": {"key": "value", ...},
 *                "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *     the rest  the tensors' bytes, row-major and little-endian; offsets count from here, without holes or overlap
 */
#ifndef DI_TENSOR_SAFETENSORS_H
#define DI_TENSOR_SAFETENSORS_H

#include <dropin/tensor.h>

enum {
    DI_HEADER_LIMIT = 100000000, /* bytes of JSON, the official library's limit */
    DI_HEADER_DEPTH = 3,         /* file, tensor, list */
    DI_SHOWN = 112               /* bytes of a name in a message */
};

#define DI_METADATA "__metadata__"

/* "F32" …; and back: false where there is no such dtype. */
const char *di_file_dtype(di_dtype dtype);
bool di_file_dtype_find(const char *name, di_dtype *dtype);

/* A name from a file, fit for a message: cut at 100 bytes, control characters replaced. Returns text. */
const char *di_shown(const char *name, char text[DI_SHOWN]);

/* Well-formed UTF-8 by the Unicode standard's table 3-7 (no surrogates, nothing overlong). */
bool di_utf8_valid(const char *text, size_t bytes);

/* Checks of the JSON text that cJSON does not make: UTF-8, control characters, \u0000 in names (C strings would end
 * there), numbers by the JSON grammar, depth, and an end. *end = bytes without the spaces behind the object. */
DI_CHECKED di_status di_header_scan(const char *file, const char *text, size_t bytes, size_t *end);

#endif
