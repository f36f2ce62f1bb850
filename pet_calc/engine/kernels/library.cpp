// The engine as `torch.classes.pet_calc.Engine`.

#include "engine.h"

#include <torch/library.h>

using pet_calc::engine::Engine;

TORCH_LIBRARY(pet_calc, library) {
    library.class_<Engine>("Engine")
        .def(torch::init<pet_calc::engine::Tensors, pet_calc::engine::Integers,
                         pet_calc::engine::Numbers>())
        .def("run_pairs", &Engine::run_pairs)
        .def("run_pairs_with_features", &Engine::run_pairs_with_features);
}
