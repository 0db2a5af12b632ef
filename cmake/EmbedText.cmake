# SPDX-License-Identifier: Apache-2.0
# Writes ${OUT}: the bytes of the files named in ${LIST} as di_builtin_text.
file(STRINGS ${LIST} paths)
set(hex "")
foreach(path ${paths})
  file(READ ${path} one HEX)
  string(APPEND hex "${one}")
endforeach()
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," array "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" array "${array}")
file(WRITE ${OUT} "#include \"train/text.h\"\nconst unsigned char di_builtin_text[] = {\n${array}0};\nconst int64_t di_builtin_text_bytes = ${bytes};\n")
