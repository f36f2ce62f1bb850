// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_UNCERTAIN_H
#define PET_CALC_UNCERTAIN_H

#include <string>
#include <vector>

#include "pointers.h"

namespace pet_calc {

// What happens at a step with uncertain atoms: a line for the first of a run, a line for each,
// an error, or the frame goes to a file.
enum class OnUncertain { WARN, WARN_ALL, STOP, WRITE };

// What `pair_style metatomic` was told of them.
struct UncertainSettings {
  double threshold = 0.0;        // of an atom's energy, in LAMMPS's unit; 0: nobody looks
  OnUncertain action = OnUncertain::WARN;
  bool has_threshold = false, has_action = false;    // whether the input names them
  int every = 10;                // steps from one frame in the file to the next, at least
  std::string state;             // charge and spin as frames in the file have them
};

// Looks at the uncertainty of every atom's energy, evaluation after evaluation, on all ranks
// together.
class UncertaintyWatch : protected LAMMPS_NS::Pointers {
 public:
  // `ev` and `angstrom`: one eV in LAMMPS's unit, LAMMPS's unit of length in Angstrom
  UncertaintyWatch(LAMMPS_NS::LAMMPS *lmp, const UncertainSettings &settings, double ev,
                   double angstrom);

  void start_run();

  // `uncertainties` [n_local] in eV; `number_of_type` gives atomic numbers. Returns why the run
  // has to stop, on one rank at least; empty if it goes on.
  std::string look(const std::vector<double> &uncertainties,
                   const std::vector<int> &number_of_type);

 private:
  // An atom as it travels to the first rank, all of it numbers that a double holds.
  struct Atom {
    double tag, number, position[3], uncertainty;
  };

  std::vector<Atom> gather(const std::vector<double> &uncertainties,
                           const std::vector<int> &number_of_type, bool takes_all) const;
  std::string describe(std::vector<Atom> uncertain) const;
  std::string write(std::vector<Atom> atoms, long long n_uncertain) const;
  std::string name_file() const;
  bool is_uncertain(double value) const;

  UncertainSettings settings_;
  double ev_, angstrom_;
  double limit_;    // eV
  bool has_warned_ = false;
  long long last_written_ = -1;    // step, -1: none in this run
};

// Reads `warn`, `warn_all`, `stop` or `write`; false if it is none of them.
bool read_action(const std::string &word, OnUncertain &action);

}    // namespace pet_calc

#endif
