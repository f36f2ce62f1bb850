// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers
//
// A metatomic model behind plain arrays. No torch and no LAMMPS header is needed to use
// it, so that each of the two is compiled once only.

#ifndef PET_CALC_MODEL_H
#define PET_CALC_MODEL_H

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/kernels/exchange.h"

namespace pet_calc {

// Whether the compiled engine runs the network: where it can, or else an error, or never.
enum class Route { AUTO, ON, OFF };

// What `pair_style metatomic` was given.
struct Settings {
  std::string model_path;
  std::string device;             // empty: the model's first choice that is there
  std::string extensions;         // folder with the model's TorchScript extensions
  std::string variant;            // empty: the output without a variant
  bool check_consistency = false;
  bool non_conservative = false;  // forces and virial from the model's direct outputs
  bool with_uncertainties = false;    // of the atoms' energies, in each evaluation
  Route engine = Route::AUTO;     // compiled engine instead of TorchScript
  int n_threads = 0;              // 0: leave torch's own choice
  int rank_on_node = 0;           // chooses among several GPUs
  double charge = 0.0;            // of the whole system, e; for models that read it
  double spin_multiplicity = 1.0;    // 2S + 1, likewise
};

// Atoms in Angstrom. Each atom is there once; the periodic cell supplies its images.
struct Structure {
  int64_t n_centers = 0;              // the first n_centers atoms have their energy summed
  std::vector<int32_t> numbers;       // [n_atoms], atomic numbers
  std::vector<double> positions;      // [3 * n_atoms]
  std::array<double, 9> cell{};       // rows a, b, c; zero where not periodic
  std::array<bool, 3> periodic{};
  bool need_virial = false;
  bool need_energies = false;
};

// The pairs of a rank's own atoms, sorted by centre, where ranks exchange edges. Neighbors from
// n_centers on are other ranks' atoms, each there once for every image.
struct RankPairs {
  int64_t version = 0;                 // grows when they change
  std::vector<int64_t> centers, neighbors;    // [n_pairs]
  std::vector<int64_t> reverse;        // likewise; n_pairs + h: that of place h of `crossings`
  std::vector<int32_t> shifts;         // [3 * n_pairs], in cell vectors; 0 where they cross
  engine::Crossings crossings;
};

// In eV, eV/Angstrom.
struct Result {
  double energy = 0.0;
  std::vector<double> energies;       // [n_centers] if asked for
  std::vector<double> uncertainties;  // [n_centers], of these, with Settings::with_uncertainties
  std::vector<double> forces;         // [3 * n_atoms]
  std::array<double, 9> virial{};     // minus the derivative in the strain, if asked for;
                                      // NaN if there is none
};

// All functions report failures as std::runtime_error with one line of text.
class Model {
 public:
  explicit Model(const Settings &settings);
  ~Model();

  Result evaluate(const Structure &structure);
  // The part of one of several ranks, which must all do so at once. Only for the engine.
  Result evaluate(const Structure &structure, const RankPairs &pairs, engine::Exchange &exchange);

  // Why ranks cannot exchange edges; empty if they can.
  std::string exchange_obstacle() const;
  bool knows(int number) const;
  bool has_energies() const;            // whether there are energies per atom
  // False for direct forces without a stress, or in a box that has no volume.
  bool has_virial(const std::array<bool, 3> &periodic) const;
  double cutoff() const;                // largest cutoff of its neighbor lists, Angstrom
  double declared_range() const;        // interaction range that the file states, Angstrom
  double pet_range() const;             // what its layers reach; 0 if it is no PET
  std::string known_elements() const;   // for messages
  std::string describe() const;         // one line for the log
  std::string describe_route() const;   // likewise: what runs the network, and why

 private:
  struct Implementation;
  std::unique_ptr<Implementation> self_;
};

// Symbol of an element ("?" if there is none) and its atomic number (0 if unknown).
std::string symbol_of(int number);
int number_of(const std::string &symbol);

}    // namespace pet_calc

#endif
