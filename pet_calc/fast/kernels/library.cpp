// The engine as `torch.classes.pet_calc.Engine`.

#include "engine.h"

#include <torch/library.h>

using pet_calc::fast::Engine;

TORCH_LIBRARY(pet_calc, library) {
    library.class_<Engine>("Engine")
        .def(torch::init<pet_calc::fast::Tensors, pet_calc::fast::Integers,
                         pet_calc::fast::Numbers>())
        .def("run_edges", &Engine::run_edges)
        .def("run_pairs", &Engine::run_pairs);
}
