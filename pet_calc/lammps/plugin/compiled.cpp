// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "compiled.h"

#include "search.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <tuple>

#include <torch/csrc/autograd/autograd.h>

namespace pet_calc {

namespace {

const char *const DESCRIBE = "describe_engine";
const char *const ESTIMATE = "estimate_uncertainty";

c10::ivalue::TupleElements describe(const torch::jit::Module &module, const std::string &output) {
  return module.get_method(DESCRIBE)({output}).toTuple()->elements();
}

torch::Tensor take(engine::Tensors &tensors, const std::string &name) {
  const auto found = tensors.at(name);
  tensors.erase(name);
  return found;
}

}    // namespace

std::string CompiledPet::find_obstacle(const torch::jit::Module &module,
                                       const std::string &output) {
  if (!module.find_method(DESCRIBE))
    return "the file holds no weights for it: export the checkpoint with `pet-calc export`";
  return describe(module, output)[0].toStringRef();
}

std::string CompiledPet::find_uncertainty_obstacle(const torch::jit::Module &module) {
  if (module.find_method(ESTIMATE)) return "";
  return "an older pet-calc wrote its uncertainty: export the checkpoint again";
}

CompiledPet::CompiledPet(const torch::jit::Module &module, const std::string &output,
                         torch::Dtype dtype, double charge, double spin_multiplicity,
                         bool with_uncertainties)
    : module_(module), output_(output), dtype_(dtype), with_uncertainties_(with_uncertainties) {
  torch::NoGradGuard guard;
  const auto description = describe(module, output);
  const auto shape = c10::impl::toTypedDict<std::string, int64_t>(description[1].toGenericDict());
  const auto numbers = c10::impl::toTypedDict<std::string, double>(description[2].toGenericDict());
  engine::Tensors weights;
  for (const auto &item : module.attr("pet").toModule().named_parameters())
    weights.insert(item.name, item.value);
  auto folded = c10::impl::toTypedDict<std::string, torch::Tensor>(
      module.get_method("fold_weights")({weights, output}).toGenericDict());
  species_of_number_ = take(folded, "species");
  scale_ = take(folded, "scale").to(dtype);
  composition_ = take(folded, "composition");
  for (const auto &item : folded) item.setValue(item.value().to(dtype));
  engine_ = std::make_unique<engine::Engine>(folded, shape, numbers);
  has_zbl_ = shape.at("has_zbl") != 0;
  if (shape.at("is_conditioned") != 0)
    addition_ = module.get_method("embed_conditions")({charge, spin_multiplicity}).toTensor();
}

Result CompiledPet::evaluate(const Structure &structure, PairList &list) {
  if (list.refresh(structure) || version_ != 0) read_pairs(list);
  version_ = 0;
  return evaluate_pairs(structure, nullptr);
}

Result CompiledPet::evaluate(const Structure &structure, const RankPairs &pairs,
                             engine::Exchange &exchange) {
  check_geometry(structure);
  if (version_ != pairs.version) read_pairs(pairs);
  version_ = pairs.version;
  const engine::Part part{structure.n_centers, pairs.crossings, exchange};
  return evaluate_pairs(structure, &part);
}

Result CompiledPet::evaluate_pairs(const Structure &structure, const engine::Part *part) {
  measure_pairs(structure);
  const auto n_atoms = static_cast<int64_t>(structure.numbers.size());
  const int64_t n_centers = structure.n_centers;
  const auto numbers = torch::tensor(structure.numbers, torch::kInt64);
  const auto species = species_of_number_.index_select(0, numbers);
  const int64_t n_evaluated = part ? n_centers : n_atoms;
  auto scale = scale_.index_select(0, species.narrow(0, 0, n_evaluated));
  // the energies of ghosts are other ranks' business
  scale.narrow(0, n_centers, n_evaluated - n_centers).zero_();
  const auto vectors = vectors_.to(dtype_);
  c10::optional<torch::Tensor> addition;
  if (addition_.defined()) addition = addition_.expand({n_evaluated, -1});
  torch::Tensor energies, gradient, features;
  if (part)
    std::tie(energies, gradient, features) =
        engine_->run_part(*part, with_uncertainties_, species, centers_, neighbors_, reverse_,
                          vectors, scale, addition);
  else if (with_uncertainties_)
    std::tie(energies, gradient, features) = engine_->run_pairs_with_features(
        species, centers_, neighbors_, reverse_, vectors, scale, addition);
  else
    std::tie(energies, gradient) =
        engine_->run_pairs(species, centers_, neighbors_, reverse_, vectors, scale, addition);
  if (has_zbl_) gradient += add_repulsion(numbers, vectors, n_centers, energies);

  Result result;
  // float64: composition energies reach 1e5 eV
  const auto total = energies.narrow(0, 0, n_centers).to(torch::kFloat64) +
                     composition_.index_select(0, species.narrow(0, 0, n_centers));
  result.energy = total.sum().item<double>();
  if (structure.need_energies) {
    const double *data = total.data_ptr<double>();
    result.energies.assign(data, data + n_centers);
  }
  if (with_uncertainties_) result.uncertainties = estimate(features.narrow(0, 0, n_centers));
  result.forces.assign(3 * n_atoms, 0.0);
  add_forces(gradient, result);
  return result;
}

// Standard deviations [n] in eV of the energies of atoms with features [n, n_features].
std::vector<double> CompiledPet::estimate(const torch::Tensor &features) const {
  torch::NoGradGuard guard;
  const auto found = module_.get_method(ESTIMATE)({output_, features})
                         .toTensor()
                         .to(torch::kFloat64)
                         .contiguous();
  const double *data = found.data_ptr<double>();
  return std::vector<double>(data, data + found.numel());
}

// Takes over the candidates of a list: the engine drops those beyond the model's cutoff.
void CompiledPet::read_pairs(const PairList &list) {
  using Pair = std::array<int32_t, 5>;    // i, j, shift
  const auto &candidates = list.candidates();
  std::vector<Pair> pairs(candidates.size() / 5);
  for (size_t k = 0; k < pairs.size(); k++)
    std::copy_n(&candidates[5 * k], 5, pairs[k].begin());
  std::sort(pairs.begin(), pairs.end());

  const auto n_pairs = static_cast<int64_t>(pairs.size());
  centers_ = torch::empty({n_pairs}, torch::kInt64);
  neighbors_ = torch::empty({n_pairs}, torch::kInt64);
  reverse_ = torch::empty({n_pairs}, torch::kInt64);
  vectors_ = torch::empty({n_pairs, 3}, torch::kFloat64);
  shifts_.resize(3 * n_pairs);
  for (int64_t k = 0; k < n_pairs; k++) {
    const auto [i, j, a, b, c] = pairs[k];
    const Pair reverse{j, i, -a, -b, -c};
    const auto place = std::lower_bound(pairs.begin(), pairs.end(), reverse);
    if (place == pairs.end() || *place != reverse)
      throw std::runtime_error("the neighbor list has a pair i->j without j->i");
    centers_.data_ptr<int64_t>()[k] = i;
    neighbors_.data_ptr<int64_t>()[k] = j;
    reverse_.data_ptr<int64_t>()[k] = place - pairs.begin();
    std::copy_n(&pairs[k][2], 3, &shifts_[3 * k]);
  }
}

void CompiledPet::read_pairs(const RankPairs &pairs) {
  centers_ = torch::tensor(pairs.centers, torch::kInt64);
  neighbors_ = torch::tensor(pairs.neighbors, torch::kInt64);
  reverse_ = torch::tensor(pairs.reverse, torch::kInt64);
  vectors_ = torch::empty({centers_.size(0), 3}, torch::kFloat64);
  shifts_ = pairs.shifts;
}

void CompiledPet::measure_pairs(const Structure &structure) {
  const int64_t *center = centers_.data_ptr<int64_t>(), *neighbor = neighbors_.data_ptr<int64_t>();
  double *vector = vectors_.data_ptr<double>();
  for (int64_t p = 0; p < vectors_.size(0); p++) {
    const double *from = &structure.positions[3 * center[p]];
    const double *to = &structure.positions[3 * neighbor[p]];
    const int32_t *shift = &shifts_[3 * p];
    for (int axis = 0; axis < 3; axis++) {
      // in this order the reverse is minus this to the last digit
      double length = to[axis] - from[axis];
      for (int k = 0; k < 3; k++) length += shift[k] * structure.cell[3 * k + axis];
      vector[3 * p + axis] = length;
    }
  }
}

// Adds the repulsion to the energies of the atoms; returns the gradient of that of the
// centres, [n_pairs, 3].
torch::Tensor CompiledPet::add_repulsion(const torch::Tensor &numbers,
                                         const torch::Tensor &vectors, int64_t n_centers,
                                         torch::Tensor &energies) const {
  torch::AutoGradMode with_gradient(true);
  const auto leaf = vectors.detach().requires_grad_(true);
  const auto repulsion = module_.get_method("compute_repulsion")(
                             {numbers, centers_, neighbors_, leaf}).toTensor();
  energies = energies + repulsion.detach().narrow(0, 0, energies.size(0));
  const auto own = repulsion.narrow(0, 0, n_centers).sum();
  return torch::autograd::grad({own}, {leaf})[0];
}

void CompiledPet::add_forces(const torch::Tensor &gradient, Result &result) const {
  const auto wide = gradient.to(torch::kFloat64);
  const double *slope = wide.data_ptr<double>(), *vector = vectors_.data_ptr<double>();
  const int64_t *center = centers_.data_ptr<int64_t>(), *neighbor = neighbors_.data_ptr<int64_t>();
  for (int64_t p = 0; p < vectors_.size(0); p++) {
    double *from = &result.forces[3 * center[p]], *to = &result.forces[3 * neighbor[p]];
    for (int axis = 0; axis < 3; axis++) {
      const double push = slope[3 * p + axis];
      from[axis] += push;
      to[axis] -= push;
      for (int row = 0; row < 3; row++) result.virial[3 * row + axis] -= vector[3 * p + row] * push;
    }
  }
}

}    // namespace pet_calc
