// One evaluation: nothing is kept for a gradient in the weights, so gradients take the place
// of what they are in, and products may be in bfloat16.

#pragma once

#include "pass.h"

namespace pet_calc::engine {

// A is the type of the streams, S that of the matrix products.
template <typename A, typename S>
Output evaluate(const Network &network, const Input &input, Pool &pool, bool with_features) {
    return Pass<Mode<A, S, false>>(network, input, pool).evaluate(with_features);
}

}  // namespace pet_calc::engine
