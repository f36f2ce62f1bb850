// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_COMPILED_H
#define PET_CALC_COMPILED_H

#include <memory>
#include <string>
#include <vector>

#include <torch/script.h>

#include "model.h"
#include "engine/kernels/engine.h"
#include "neighbors.h"

namespace pet_calc {

// A PET in a file of pet-calc, run by the engine of pet_calc/engine/kernels instead of
// TorchScript. The file folds its weights for it and says what shape they have
// (pet_calc/export/engine.py).
class CompiledPet {
 public:
  // Why the engine cannot run an output of a file; empty if it can. `module` is what
  // metatomic's model wraps.
  static std::string find_obstacle(const torch::jit::Module &module, const std::string &output);

  // Charge and spin count where the model reads them. Throws what torch throws. With
  // uncertainties: `find_uncertainty_obstacle` is asked first.
  CompiledPet(const torch::jit::Module &module, const std::string &output, torch::Dtype dtype,
              double charge, double spin_multiplicity, bool with_uncertainties);

  // Why a file gives no uncertainties for the engine's features; empty if it does.
  static std::string find_uncertainty_obstacle(const torch::jit::Module &module);

  Result evaluate(const Structure &structure, PairList &list);
  // where ranks exchange edges: see Model
  Result evaluate(const Structure &structure, const RankPairs &pairs, engine::Exchange &exchange);

 private:
  // `part`: null where there is one rank, or each does all that it needs
  Result evaluate_pairs(const Structure &structure, const engine::Part *part);
  void read_pairs(const PairList &list);
  void read_pairs(const RankPairs &pairs);
  void measure_pairs(const Structure &structure);
  torch::Tensor add_repulsion(const torch::Tensor &numbers, const torch::Tensor &vectors,
                              int64_t n_centers, torch::Tensor &energies) const;
  void add_forces(const torch::Tensor &gradient, Result &result) const;
  std::vector<double> estimate(const torch::Tensor &features) const;

  torch::jit::Module module_;
  std::string output_;
  torch::Dtype dtype_;
  bool with_uncertainties_;
  std::unique_ptr<engine::Engine> engine_;
  torch::Tensor species_of_number_;    // [largest number + 1]
  torch::Tensor scale_;                // [n_species]
  torch::Tensor composition_;          // [n_species], float64
  torch::Tensor addition_;             // [1, d_node], of charge and spin if they are read
  bool has_zbl_ = false;

  torch::Tensor centers_, neighbors_, reverse_;    // [n_pairs] int64, sorted by centre
  std::vector<int32_t> shifts_;                    // [3 * n_pairs]
  int64_t version_ = 0;                            // of the RankPairs that they are from
  torch::Tensor vectors_;                          // [n_pairs, 3] float64, Angstrom
};

}    // namespace pet_calc

#endif
