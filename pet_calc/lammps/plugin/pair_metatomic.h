// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_PAIR_METATOMIC_H
#define PET_CALC_PAIR_METATOMIC_H

#include <memory>
#include <string>
#include <vector>

#include "model.h"
#include "pair.h"
#include "rank_part.h"
#include "uncertain.h"

namespace pet_calc {

// pair_style metatomic MODEL.pt [keyword value ...]
// pair_coeff * * Z1 Z2 ...
//
// On one rank the model gets the periodic cell itself. On several, ranks exchange edges where the
// compiled engine runs the network (RankPart); else each rank gives the model the rank's
// own atoms, whose energies count, and one image of every other atom within the model's
// interaction range. `compute ID all pair metatomic` gives, for all ranks together: the atoms
// evaluated, and where edges are exchanged in the last step their number, bytes, and seconds.
class PairMetatomic : public LAMMPS_NS::Pair {
 public:
  explicit PairMetatomic(LAMMPS_NS::LAMMPS *lmp);
  ~PairMetatomic() override;

  void compute(int eflag, int vflag) override;
  void settings(int n_arguments, char **arguments) override;
  void coeff(int n_arguments, char **arguments) override;
  void init_style() override;
  void setup() override;
  double init_one(int i, int j) override;
  int pack_forward_comm(int n, int *list, double *buffer, int is_image, int *image) override;
  void unpack_forward_comm(int n, int first, double *buffer) override;

 private:
  void read_keywords(int n_arguments, char **arguments, Settings &settings);
  bool read_uncertain_keyword(const std::string &keyword, const char *value);
  void set_watch(Settings &settings);
  void load(const Settings &settings);
  void read_units();
  void require_newton_and_ghosts();
  void require_range();
  bool choose_exchange();
  void compute_part();
  void renew_plan();
  void log_exchange();
  double range() const;    // Angstrom
  void fill_structure();
  void choose_ghosts();
  bool is_near_own_atoms(const double *point, const double *low, const double *high) const;
  void add_results(const Result &result);
  void stop_all_if_one_failed(const std::string &message);

  std::unique_ptr<Model> model_;
  std::vector<int> number_of_type_;    // [n_types + 1], atomic numbers, 0: not set
  double range_override_ = 0.0;        // Angstrom, 0: not given
  double scale_ = 1.0;
  double length_to_angstrom_ = 1.0;
  double ev_to_energy_ = 1.0;

  UncertainSettings uncertain_;
  std::unique_ptr<UncertaintyWatch> watch_;    // null: nobody looks at uncertainties

  Structure structure_;
  std::vector<int> atom_of_;    // [n_atoms], LAMMPS's index of the structure's atoms
  std::vector<double> uncertainties_;    // [n_local], eV; empty if nobody looks
  Route exchange_ = Route::AUTO;
  std::unique_ptr<RankPart> part_;    // where ranks exchange edges
  bool is_exchange_logged_ = false;
  double extra_[4] = {};    // see `compute pair` above
};

}    // namespace pet_calc

#endif
