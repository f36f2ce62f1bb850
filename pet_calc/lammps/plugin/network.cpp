// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "network.h"

#include <optional>
#include <string>
#include <vector>

namespace pet_calc {

namespace {

// The module of a scripted PET, of pet-calc or metatrain, that holds the layers.
std::optional<torch::jit::Module> find_network(const torch::jit::Module &module) {
  for (const auto &child : module.named_children())
    if (child.name == "gnn_layers") return module;
  for (const auto &child : module.children())
    if (auto found = find_network(child)) return found;
  return std::nullopt;
}

// A setting of a network under the first of its names that is there.
std::optional<torch::IValue> find_setting(const torch::jit::Module &network,
                                          const std::vector<std::string> &names) {
  for (const auto &name : names) {
    if (!network.hasattr(name)) continue;
    const auto value = network.attr(name);
    if (!value.isNone()) return value;
  }
  return std::nullopt;
}

}    // namespace

double compute_pet_range(const torch::jit::Module &model, double largest_cutoff) {
  const auto found = find_network(model);
  if (!found) return 0.0;
  const auto &network = *found;
  const auto layers = network.attr("gnn_layers").toModule().children();
  double n_hops = static_cast<double>(layers.size());
  const auto form = find_setting(network, {"_is_feedforward", "featurizer_type"});
  const bool is_residual = form && ((form->isBool() && !form->toBool()) ||
                                    (form->isString() && form->toStringRef() == "residual"));
  if (!is_residual) n_hops += 1.0;
  if (find_setting(network, {"_n_wanted", "num_neighbors_adaptive"})) n_hops += 1.0;
  const auto cutoff = find_setting(network, {"_cutoff", "cutoff"});
  return n_hops * (cutoff && cutoff->isDouble() ? cutoff->toDouble() : largest_cutoff);
}

}    // namespace pet_calc
