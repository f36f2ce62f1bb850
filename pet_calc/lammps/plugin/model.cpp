// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "model.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>

#include <caffe2/core/common.h>
#include <torch/csrc/jit/runtime/jit_exception.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <metatensor/torch.hpp>
#include <metatomic/torch.hpp>

#include "archive.h"
#include "compiled.h"
#include "neighbors.h"
#include "network.h"

namespace pet_calc {

namespace {

constexpr const char *LENGTH_UNIT = "angstrom";
constexpr const char *ENERGY_UNIT = "eV";
constexpr const char *FORCE_UNIT = "eV/angstrom";
constexpr const char *STRESS_UNIT = "eV/angstrom^3";

// The line of a message that says what happened: TorchScript puts it last, after its own
// traceback, everything else puts it first.
std::string pick_line(const std::string &text, bool take_last) {
  std::istringstream stream(text);
  std::string line, found;
  while (std::getline(stream, line)) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (take_last || found.empty()) found = line;
  }
  return found.empty() ? "no reason given" : found;
}

// Run `function`; whatever it throws becomes std::runtime_error with one line.
template <typename Function>
auto with_short_errors(const std::string &context, Function function) -> decltype(function()) {
  std::string reason;
  try {
    return function();
  } catch (const torch::jit::JITException &error) {
    reason = pick_line(error.what(), true);
  } catch (const c10::Error &error) {
    const std::string text = error.what_without_backtrace();
    reason = pick_line(text, text.find("TorchScript interpreter") != std::string::npos);
  } catch (const std::exception &error) {
    const std::string text = error.what();
    reason = pick_line(text, text.find("TorchScript interpreter") != std::string::npos);
  }
  throw std::runtime_error(context + ": " + reason);
}

metatensor_torch::Labels make_labels(const std::vector<std::string> &names,
                                     const torch::Tensor &values) {
  // vesin and we list nothing twice, and the check costs more than the list
  return torch::make_intrusive<metatensor_torch::LabelsHolder>(
      torch::IValue(names), values.to(torch::kInt32), metatensor::assume_unique{});
}

// The positions about the middle of the structure: what a float32 model gets is small.
std::vector<double> bring_home(const std::vector<double> &positions) {
  std::vector<double> near = positions;
  for (size_t axis = 0; axis < 3 && axis < near.size(); axis++) {
    double low = near[axis], high = low;
    for (size_t i = axis; i < near.size(); i += 3) {
      low = std::min(low, near[i]);
      high = std::max(high, near[i]);
    }
    const double middle = 0.5 * (low + high);
    for (size_t i = axis; i < near.size(); i += 3) near[i] -= middle;
  }
  return near;
}

metatensor_torch::TensorBlock read_block(const torch::IValue &outputs, const std::string &name) {
  const auto map =
      outputs.toGenericDict().at(name).toCustomClass<metatensor_torch::TensorMapHolder>();
  return metatensor_torch::TensorMapHolder::block_by_id(map, 0);
}

// Values per atom in the order of the atoms, [n_atoms * width].
std::vector<double> read_rows(const metatensor_torch::TensorBlock &block, int64_t n_atoms,
                              int64_t width) {
  const auto rows = block->values().detach().reshape({-1, width}).to(torch::kCPU, torch::kFloat64);
  const auto atoms = block->samples()->values().select(1, 1).to(torch::kCPU).to(torch::kInt64);
  const auto ordered =
      torch::zeros({n_atoms, width}, torch::kFloat64).index_copy(0, atoms, rows);
  const double *data = ordered.data_ptr<double>();
  return std::vector<double>(data, data + n_atoms * width);
}

void check_versions() {
  const auto &options = caffe2::GetBuildOptions();
  const auto found = options.find("TORCH_VERSION");
  const std::string torch_now = found == options.end() ? "" : found->second;
  const std::string torch_then = TORCH_VERSION;
  if (!torch_now.empty() && torch_now.compare(0, torch_then.size(), torch_then) != 0)
    throw std::runtime_error("this plugin was compiled for torch " + torch_then +
                             ", but torch " + torch_now +
                             " is loaded; run `pet-calc lammps build`");
}

}    // namespace

struct Model::Implementation {
  Settings settings;
  std::optional<metatensor_torch::Module> model;
  metatomic_torch::ModelCapabilities capabilities;
  metatomic_torch::ModelMetadata metadata;
  std::vector<metatomic_torch::NeighborListOptions> lists;
  std::vector<PairList> pairs;    // one for each of the lists
  std::vector<torch::Tensor> vectors;    // likewise, as the model got them
  std::string output, force_output, stress_output, uncertainty_output;    // empty: not used
  bool has_energies = false;
  std::map<std::string, double> inputs;    // what the model reads besides the atoms
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kFloat64;
  std::optional<CompiledPet> compiled;    // empty: TorchScript runs the network
  std::string obstacle;                   // why it is empty

  void load();
  void choose_output();
  void choose_direct_outputs();
  void choose_uncertainty();
  void choose_device();
  void read_inputs();
  void choose_route();
  std::string build_compiled();
  metatomic_torch::System build_system(const Structure &structure,
                                       const torch::Tensor &positions,
                                       const torch::Tensor &cell);
  torch::IValue run_model(const Structure &structure, const torch::Tensor &positions,
                          const torch::Tensor &cell);
  Result evaluate(const Structure &structure);
  void add_gradients(const torch::Tensor &energy, const std::vector<torch::Tensor> &inputs,
                     bool has_strain, Result &result) const;
  bool has_virial(const std::array<bool, 3> &periodic) const;
  void add_direct_outputs(const torch::IValue &outputs, const Structure &structure,
                          Result &result) const;
  void add_vectors(const PairList &list, const double *slope, bool has_strain,
                   Result &result) const;
  metatomic_torch::ModelEvaluationOptions build_options(const Structure &structure) const;
  torch::Tensor read_energies(const torch::IValue &outputs, const Structure &structure,
                              Result &result) const;
};

void Model::Implementation::load() {
  const std::string &path = settings.model_path;
  if (!std::ifstream(path).good())
    throw std::runtime_error("there is no file " + path +
                             "; write one with `pet-calc export`, and give its path "
                             "relative to the folder LAMMPS was started in");
  check_archive(path);
  torch::optional<std::string> extensions;
  if (!settings.extensions.empty()) extensions = settings.extensions;
  with_short_errors(path + " is not a model that metatomic can load", [&] {
    model = metatomic_torch::load_atomistic_model(path, extensions);
    capabilities = model->run_method("capabilities")
                       .toCustomClass<metatomic_torch::ModelCapabilitiesHolder>();
    metadata = model->run_method("metadata")
                   .toCustomClass<metatomic_torch::ModelMetadataHolder>();
    const auto requests = model->run_method("requested_neighbor_lists").toList();
    for (const torch::IValue request : requests) {
      lists.push_back(request.toCustomClass<metatomic_torch::NeighborListOptionsHolder>());
      pairs.emplace_back(lists.back()->engine_cutoff(LENGTH_UNIT), lists.back()->full_list());
    }
  });
  dtype = capabilities->dtype() == "float32" ? torch::kFloat32 : torch::kFloat64;
}

void Model::Implementation::choose_output() {
  const auto outputs = capabilities->outputs();
  std::string variant = settings.variant;
  // `variant energy/pbe` means `variant pbe`
  if (variant.compare(0, 7, "energy/") == 0) variant = variant.substr(7);
  const bool is_plain = variant.empty() || variant == "energy";
  output = is_plain ? "energy" : "energy/" + variant;
  std::string known, only;
  int n_energies = 0;
  for (const auto &item : outputs) {
    const std::string &name = item.key();
    if (name != "energy" && name.compare(0, 7, "energy/") != 0) continue;
    known += (known.empty() ? "" : ", ") + name;
    only = name;
    n_energies++;
  }
  if (!outputs.contains(output) && settings.variant.empty() && n_energies == 1) output = only;
  if (!outputs.contains(output))
    throw std::runtime_error(settings.model_path + " has no output " + output +
                             "; its energies are: " + (known.empty() ? "none" : known) +
                             " (choose one with the keyword `variant`)");
  has_energies = outputs.at(output)->sample_kind() == "atom";
  if (settings.non_conservative) choose_direct_outputs();
  if (settings.with_uncertainties) choose_uncertainty();
}

void Model::Implementation::choose_uncertainty() {
  const auto outputs = capabilities->outputs();
  // metatomic's names: energy/pbe has energy_uncertainty/pbe
  uncertainty_output = "energy_uncertainty" + output.substr(std::string("energy").size());
  if (outputs.contains(uncertainty_output) &&
      outputs.at(uncertainty_output)->sample_kind() == "atom")
    return;
  throw std::runtime_error(
      settings.model_path + " has no uncertainty of " + output +
      " per atom, which uncertainty_threshold asks for: `pet-calc uncertainty MODEL TRAIN.xyz --val "
      "VAL.xyz -o NEW` makes one, and `pet-calc export NEW` a file with it");
}

void Model::Implementation::choose_direct_outputs() {
  const auto outputs = capabilities->outputs();
  const auto slash = output.find('/');
  const std::string variant = slash == std::string::npos ? "" : output.substr(slash);
  // the outputs without a variant serve all energies
  const auto find = [&](const std::vector<std::string> &bases) -> std::string {
    for (const auto &ending : {variant, std::string()})
      for (const auto &base : bases)
        if (outputs.contains(base + ending)) return base + ending;
    return "";
  };
  force_output = find({"non_conservative_force", "non_conservative_forces"});
  stress_output = find({"non_conservative_stress"});
  std::string known;
  for (const auto &item : outputs) known += (known.empty() ? "" : ", ") + item.key();
  if (force_output.empty())
    throw std::runtime_error(settings.model_path + " has no non-conservative forces for " +
                             output + "; remove `non_conservative on`, or use a model trained "
                             "for them (its outputs are: " + known + ")");
  if (outputs.at(force_output)->sample_kind() != "atom")
    throw std::runtime_error(settings.model_path + " gives no " + force_output +
                             " per atom; remove `non_conservative on`");
}

void Model::Implementation::choose_device() {
  const auto &supported = capabilities->supported_devices;
  std::string wanted = settings.device;
  if (wanted.empty() || wanted == "auto") {
    wanted = "cpu";
    for (const auto &name : supported) {
      if (name == "cpu" || (name == "cuda" && torch::cuda::is_available())) {
        wanted = name;
        break;
      }
    }
  }
  with_short_errors("device " + wanted + " is not one that torch knows",
                    [&] { device = torch::Device(wanted); });
  if (device.is_cuda() && !torch::cuda::is_available())
    throw std::runtime_error("device " + wanted +
                             ": torch sees no such GPU; use `device cpu`, or install a "
                             "torch with CUDA and run `pet-calc lammps build`");
  if (device.is_cuda() && !device.has_index()) {
    const int index = settings.rank_on_node % static_cast<int>(torch::cuda::device_count());
    device = torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(index));
  }
  const std::string kind = wanted.substr(0, wanted.find(':'));
  if (std::find(supported.begin(), supported.end(), kind) == supported.end())
    throw std::runtime_error(settings.model_path + " does not run on device " + kind);
  // never to(dtype): it would cast the model's index tables as well
  with_short_errors("cannot move the model to device " + wanted, [&] { model->to(device); });
}

void Model::Implementation::read_inputs() {
  // models from before this method have no such inputs
  if (!model->find_method("requested_inputs")) return;
  const auto requests = with_short_errors("cannot ask the model for its inputs", [&] {
    return model->run_method("requested_inputs", true).toGenericDict();
  });
  for (const auto &item : requests) {
    const std::string name = item.key().toStringRef();
    if (name == "charge")
      inputs[name] = settings.charge;
    else if (name == "spin_multiplicity")
      inputs[name] = settings.spin_multiplicity;
    else
      throw std::runtime_error(settings.model_path + " needs the input " + name +
                               ", which this pair style cannot give; use the model in ASE");
  }
  if (inputs.empty() && (settings.charge != 0.0 || settings.spin_multiplicity != 1.0))
    throw std::runtime_error(settings.model_path +
                             " does not read charge and spin; remove these keywords");
}

void Model::Implementation::choose_route() {
  if (settings.engine == Route::OFF)
    obstacle = "engine off";
  else if (!device.is_cpu())
    obstacle = "it is for the CPU";
  else if (!force_output.empty())
    obstacle = "it has no direct forces";
  else if (settings.check_consistency)
    obstacle = "it passes by what check_consistency checks";
  else
    obstacle = build_compiled();
  if (settings.engine == Route::ON && !compiled)
    throw std::runtime_error("engine on: the compiled engine cannot run " +
                             settings.model_path + ": " + obstacle);
}

// Returns why there is no compiled network; empty if there is one now.
std::string Model::Implementation::build_compiled() {
  try {
    return with_short_errors("it does not take this file", [&]() -> std::string {
      const auto module = model->attr("module").toModule();
      std::string found = CompiledPet::find_obstacle(module, output);
      if (found.empty() && settings.with_uncertainties)
        found = CompiledPet::find_uncertainty_obstacle(module);
      if (!found.empty()) return found;
      const bool has_our_units = capabilities->outputs().at(output)->unit() == ENERGY_UNIT &&
                                 lists.at(0)->cutoff() == lists.at(0)->engine_cutoff(LENGTH_UNIT);
      if (!has_our_units) return "the model's units are not eV and angstrom";
      compiled.emplace(module, output, dtype, settings.charge, settings.spin_multiplicity,
                       settings.with_uncertainties);
      return "";
    });
  } catch (const std::exception &failure) {
    return failure.what();
  }
}

metatomic_torch::System Model::Implementation::build_system(const Structure &structure,
                                                             const torch::Tensor &positions,
                                                             const torch::Tensor &cell) {
  auto types = torch::tensor(structure.numbers, torch::kInt32).to(device);
  auto periodic = torch::empty({3}, torch::kBool);
  for (int axis = 0; axis < 3; axis++) periodic[axis] = structure.periodic[axis];
  auto system = torch::make_intrusive<metatomic_torch::SystemHolder>(types, positions, cell,
                                                                     periodic.to(device));
  vectors.clear();
  for (size_t k = 0; k < lists.size(); k++) {
    const auto &request = lists[k];
    pairs[k].update(structure);
    const auto n_pairs = static_cast<int64_t>(pairs[k].samples.size() / 5);
    auto samples = torch::from_blob(pairs[k].samples.data(), {n_pairs, 5}, torch::kInt32);
    auto values = torch::from_blob(pairs[k].vectors.data(), {n_pairs, 3, 1}, torch::kFloat64);
    // a leaf of its own: forces and virial are summed in float64 (add_vectors), and no
    // position, which may be large, is multiplied in float32
    vectors.push_back(values.to(device, dtype, false, true));
    const bool is_leaf = force_output.empty() && !settings.check_consistency;
    vectors.back().requires_grad_(is_leaf);
    auto block = torch::make_intrusive<metatensor_torch::TensorBlockHolder>(
        vectors.back(),
        make_labels({"first_atom", "second_atom", "cell_shift_a", "cell_shift_b",
                     "cell_shift_c"},
                    samples.to(device, torch::kInt32, false, true)),
        std::vector<metatensor_torch::Labels>{
            make_labels({"xyz"}, torch::arange(3, device).unsqueeze(1))},
        make_labels({"distance"}, torch::zeros({1, 1}, device)));
    if (settings.check_consistency)
      metatomic_torch::register_autograd_neighbors(system, block, true);
    system->add_neighbor_list(request, block);
  }
  for (const auto &[name, value] : inputs) {
    const auto zero = torch::zeros({1, 1}, device);
    auto block = torch::make_intrusive<metatensor_torch::TensorBlockHolder>(
        torch::full({1, 1}, value, torch::TensorOptions().dtype(dtype).device(device)),
        make_labels({"system"}, zero), std::vector<metatensor_torch::Labels>{},
        make_labels({name}, zero));
    system->add_data(name, torch::make_intrusive<metatensor_torch::TensorMapHolder>(
                               make_labels({"_"}, zero),
                               std::vector<metatensor_torch::TensorBlock>{block}));
  }
  return system;
}

metatomic_torch::ModelEvaluationOptions Model::Implementation::build_options(
    const Structure &structure) const {
  auto options = torch::make_intrusive<metatomic_torch::ModelEvaluationOptionsHolder>();
  options->set_length_unit(LENGTH_UNIT);
  // summed here in float64: a float32 model would round the energy of a large system
  const auto request = [&](const std::string &name, const char *unit, const char *kind) {
    options->outputs.insert(name, torch::make_intrusive<metatomic_torch::ModelOutputHolder>(
                                      "", unit, kind, std::vector<std::string>{}, ""));
  };
  request(output, ENERGY_UNIT, has_energies ? "atom" : "system");
  if (!uncertainty_output.empty()) request(uncertainty_output, ENERGY_UNIT, "atom");
  if (!force_output.empty()) {
    request(force_output, FORCE_UNIT, "atom");
    if (structure.need_virial && has_virial(structure.periodic))
      request(stress_output, STRESS_UNIT, "system");
  }
  const auto n_atoms = static_cast<int64_t>(structure.numbers.size());
  if (structure.n_centers < n_atoms) {
    auto atoms = torch::arange(structure.n_centers, device);
    auto selected = torch::stack({torch::zeros_like(atoms), atoms}, 1);
    options->set_selected_atoms(make_labels({"system", "atom"}, selected));
  }
  return options;
}

torch::Tensor Model::Implementation::read_energies(const torch::IValue &outputs,
                                                    const Structure &structure,
                                                    Result &result) const {
  const auto block = read_block(outputs, output);
  const auto values = block->values().to(torch::kFloat64);
  if (structure.need_energies && has_energies)
    result.energies = read_rows(block, structure.n_centers, 1);
  if (!uncertainty_output.empty())
    result.uncertainties = read_rows(read_block(outputs, uncertainty_output),
                                     structure.n_centers, 1);
  return values.sum();
}

torch::IValue Model::Implementation::run_model(const Structure &structure,
                                                const torch::Tensor &positions,
                                                const torch::Tensor &cell) {
  c10::List<metatomic_torch::System> systems;
  systems.push_back(build_system(structure, positions, cell));
  return model->forward({systems, build_options(structure), settings.check_consistency});
}

Result Model::Implementation::evaluate(const Structure &structure) {
  if (compiled) return compiled->evaluate(structure, pairs.front());
  const auto n_atoms = static_cast<int64_t>(structure.numbers.size());
  // from_blob only reads here, since `to` copies
  auto near = bring_home(structure.positions);
  auto *positions_data = near.data();
  auto *cell_data = const_cast<double *>(structure.cell.data());
  auto positions = torch::from_blob(positions_data, {n_atoms, 3}, torch::kFloat64)
                       .to(device, dtype, false, true);
  auto cell = torch::from_blob(cell_data, {3, 3}, torch::kFloat64).to(device, dtype, false, true);
  Result result;
  result.forces.assign(3 * n_atoms, 0.0);
  if (!force_output.empty()) {
    torch::NoGradGuard guard;
    const auto outputs = run_model(structure, positions, cell);
    result.energy = read_energies(outputs, structure, result).item<double>();
    add_direct_outputs(outputs, structure, result);
    return result;
  }
  std::vector<torch::Tensor> inputs = {positions.requires_grad_(true)};
  if (structure.need_virial) {
    auto strain = torch::eye(3, cell.options()).requires_grad_(true);
    positions = positions.matmul(strain);
    cell = cell.matmul(strain);
    inputs.push_back(strain);
  }
  const auto energy = read_energies(run_model(structure, positions, cell), structure, result);
  result.energy = energy.item<double>();
  // atoms without neighbors leave nothing to differentiate
  if (energy.requires_grad()) {
    if (!settings.check_consistency)
      inputs.insert(inputs.end(), vectors.begin(), vectors.end());
    add_gradients(energy, inputs, structure.need_virial, result);
  }
  return result;
}

void Model::Implementation::add_gradients(const torch::Tensor &energy,
                                           const std::vector<torch::Tensor> &inputs,
                                           bool has_strain, Result &result) const {
  const auto gradients = torch::autograd::grad({energy}, inputs, {}, torch::nullopt, false, true);
  const auto copy = [](const torch::Tensor &gradient, double *target) {
    if (!gradient.defined()) return;
    const auto values = gradient.to(torch::kCPU, torch::kFloat64).contiguous();
    const double *data = values.data_ptr<double>();
    for (int64_t k = 0; k < values.numel(); k++) target[k] -= data[k];
  };
  copy(gradients[0], result.forces.data());
  if (has_strain) copy(gradients[1], result.virial.data());
  const size_t first = has_strain ? 2 : 1;
  for (size_t k = first; k < gradients.size(); k++) {
    if (!gradients[k].defined()) continue;
    const auto slopes = gradients[k].to(torch::kCPU, torch::kFloat64).contiguous();
    add_vectors(pairs[k - first], slopes.data_ptr<double>(), has_strain, result);
  }
}

// Adds what the vectors between atoms, whose gradient is `slope`, contribute.
void Model::Implementation::add_vectors(const PairList &list, const double *slope,
                                         bool has_strain, Result &result) const {
  for (size_t p = 0; p < list.samples.size() / 5; p++) {
    double *from = &result.forces[3 * list.samples[5 * p]];
    double *to = &result.forces[3 * list.samples[5 * p + 1]];
    for (int axis = 0; axis < 3; axis++) {
      const double push = slope[3 * p + axis];
      from[axis] += push;
      to[axis] -= push;
      if (!has_strain) continue;
      for (int row = 0; row < 3; row++)
        result.virial[3 * row + axis] -= list.vectors[3 * p + row] * push;
    }
  }
}

bool Model::Implementation::has_virial(const std::array<bool, 3> &periodic) const {
  if (force_output.empty()) return true;
  return !stress_output.empty() && periodic[0] && periodic[1] && periodic[2];
}

void Model::Implementation::add_direct_outputs(const torch::IValue &outputs,
                                                const Structure &structure,
                                                Result &result) const {
  const auto forces = read_rows(read_block(outputs, force_output), structure.n_centers, 3);
  std::copy(forces.begin(), forces.end(), result.forces.begin());
  if (!structure.need_virial) return;
  if (!has_virial(structure.periodic)) {
    // LAMMPS asks at every first step, whether or not anything reads it
    result.virial.fill(std::numeric_limits<double>::quiet_NaN());
    return;
  }
  const auto stress =
      read_block(outputs, stress_output)->values().to(torch::kCPU, torch::kFloat64).contiguous();
  // lower triangular
  const double volume = structure.cell[0] * structure.cell[4] * structure.cell[8];
  const double *data = stress.data_ptr<double>();
  for (int k = 0; k < 9; k++) result.virial[k] = -volume * data[k];
}

Model::Model(const Settings &settings) : self_(std::make_unique<Implementation>()) {
  self_->settings = settings;
  check_versions();
  if (settings.n_threads > 0) at::set_num_threads(settings.n_threads);
  self_->load();
  self_->choose_output();
  self_->read_inputs();
  self_->choose_device();
  self_->choose_route();
}

Model::~Model() = default;

Result Model::evaluate(const Structure &structure) {
  return with_short_errors("the model failed", [&] { return self_->evaluate(structure); });
}

Result Model::evaluate(const Structure &structure, const RankPairs &pairs,
                       engine::Exchange &exchange) {
  return with_short_errors("the model failed",
                           [&] { return self_->compiled->evaluate(structure, pairs, exchange); });
}

std::string Model::exchange_obstacle() const {
  if (self_->compiled) return "";
  return "the network is not run by the compiled engine: " + self_->obstacle;
}

bool Model::knows(int number) const {
  const auto &known = self_->capabilities->atomic_types;
  return std::find(known.begin(), known.end(), number) != known.end();
}

bool Model::has_energies() const { return self_->has_energies; }

bool Model::has_virial(const std::array<bool, 3> &periodic) const {
  return self_->has_virial(periodic);
}

double Model::cutoff() const {
  double largest = 0.0;
  for (const auto &request : self_->lists)
    largest = std::max(largest, request->engine_cutoff(LENGTH_UNIT));
  return largest;
}

double Model::declared_range() const {
  return self_->capabilities->engine_interaction_range(LENGTH_UNIT);
}

double Model::pet_range() const {
  if (self_->lists.empty()) return 0.0;
  double largest = 0.0;
  for (const auto &request : self_->lists) largest = std::max(largest, request->cutoff());
  const double to_angstrom = cutoff() / largest;
  return to_angstrom * compute_pet_range(*self_->model, largest);
}

std::string Model::known_elements() const {
  std::string text;
  for (const auto number : self_->capabilities->atomic_types)
    text += (text.empty() ? "" : " ") + symbol_of(static_cast<int>(number));
  return text;
}

std::string Model::describe() const {
  std::ostringstream text;
  text << self_->metadata->name << ", output " << self_->output << ", "
       << self_->capabilities->dtype() << " on " << self_->device.str() << ", "
       << at::get_num_threads() << " torch thread(s), cutoff " << cutoff()
       << " A, declared range " << declared_range() << " A";
  if (!self_->force_output.empty()) text << ", forces from " << self_->force_output;
  for (const auto &[name, value] : self_->inputs) text << ", " << name << " " << value;
  return text.str();
}

std::string Model::describe_route() const {
  if (self_->compiled) return "the network is run by the compiled engine";
  return "the network is run by TorchScript, not by the compiled engine: " + self_->obstacle;
}

}    // namespace pet_calc
