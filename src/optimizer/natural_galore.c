/* SPDX-License-Identifier: Apache-2.0 */
/* Natural GaLore (2024): GaLore whose projected gradient is multiplied by a damped inverse of the empirical Fisher
 * matrix of the last projected gradients (natural.h). Options and record. */
#include "optimizer/projector_parts.h"

static const di_option rows[] = {
    {.name = "history",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, di_projector_options, history),
     .value = "20",
     .min = 1,
     .max = 4096,
     .help = "projected gradients in the Fisher matrix, this one included; 1 needs no memory"},
    {.name = "damping_mode",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_projector_options, damping_mode),
     .value = "relative",
     .choices = "relative|absolute",
     .help = "damping times the mean squared norm of the history, or damping itself (the paper's code)"},
    {.name = "damping",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, di_projector_options, damping),
     .value = "auto",
     .min = 0,
     .max = 1e30,
     .flags = DI_OPEN_MIN | DI_AUTO,
     .help = "added to the Fisher matrix's diagonal; auto: 1 relative, 0.001 absolute"},
    {.name = "history_on_refresh",
     .type = DI_CHOICE,
     .offset = DI_FIELD(int32_t, di_projector_options, history_on_refresh),
     .value = "clear",
     .choices = "clear|keep|rotate",
     .help = "gradients of the old basis at a new one: forgotten, as they are (the paper's code), or turned into it"},
    {.more = di_galore_rows}};

const di_projector di_natural_galore = {.part = {.size = sizeof(di_projector),
                                                 .slot = "projector",
                                                 .name = "natural_galore",
                                                 .python = "NaturalGaLore",
                                                 .replaces = "none",
                                                 .paper = "arXiv 2410.16029",
                                                 .help = "GaLore with a damped empirical-Fisher transform",
                                                 .options = rows,
                                                 .options_size = sizeof(di_projector_options),
                                                 .check = di_projector_check,
                                                 .tolerance = {1e-4, 1e-9}}};
