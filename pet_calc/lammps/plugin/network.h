// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_NETWORK_H
#define PET_CALC_NETWORK_H

#include <torch/script.h>

namespace pet_calc {

// How far atoms influence each other in a scripted PET of pet-calc or metatrain, in the
// model's unit of length; 0 if there is none in the model. The reversed edges of a feedforward
// PET are mixed in once more after the last layer, and an adaptive radius of the outermost
// neighbour depends on that neighbour's surroundings. A form that cannot be read counts as
// feedforward, the wider one.
double compute_pet_range(const torch::jit::Module &model, double largest_cutoff);

}    // namespace pet_calc

#endif
