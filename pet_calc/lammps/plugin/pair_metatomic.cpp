// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "pair_metatomic.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <thread>
#include <unordered_set>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "fix.h"
#include "force.h"
#include "memory.h"
#include "modify.h"
#include "neighbor.h"
#include "universe.h"
#include "update.h"
#include "utils.h"

using namespace LAMMPS_NS;

namespace pet_calc {

namespace {

// CODATA 2018
constexpr double KCAL_PER_MOL_IN_EV = 23.060547830619;
constexpr double BOHR_IN_ANGSTROM = 0.529177210903;
constexpr double EV_IN_HARTREE = 1.0 / 27.211386245988;

const char *const USAGE =
    "pair_style metatomic MODEL.pt [device cpu|cuda|cuda:N|auto] [variant NAME] "
    "[extensions FOLDER] [check_consistency on|off] [non_conservative on|off] "
    "[engine auto|on|off] [scale X] [interaction_range R] [threads N] [charge Q] [spin 2S+1] "
    "[uncertainty_threshold E|off] [on_uncertain warn|warn_all|stop|write] [uncertain_every N] "
    "[exchange auto|on|off]";

// LAMMPS's atom index within the virial: xx, yy, zz, xy, xz, yz
constexpr int VIRIAL_ROW[6] = {0, 1, 2, 0, 0, 1};
constexpr int VIRIAL_COLUMN[6] = {0, 1, 2, 1, 2, 2};

// `comm_modify group`, which LAMMPS keeps to itself
struct GhostGroup : Comm {
  static int of(Comm *comm) { return comm->*(&GhostGroup::bordergroup); }
};

struct Place {
  int n_ranks, rank;    // on this node, of this partition
};

Place find_place_on_node(MPI_Comm world) {
  MPI_Comm node;
  Place place{1, 0};
  MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  MPI_Comm_size(node, &place.n_ranks);
  MPI_Comm_rank(node, &place.rank);
  MPI_Comm_free(&node);
  return place;
}

}    // namespace

PairMetatomic::PairMetatomic(LAMMPS *lmp) : Pair(lmp) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  // the virial comes from the strain: ghosts are not what virial_fdotr_compute expects
  no_virial_fdotr_compute = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
  comm_forward = 5;    // see RankPart
  nextra = 4;
  pvector = extra_;
}

PairMetatomic::~PairMetatomic() {
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

void PairMetatomic::settings(int n_arguments, char **arguments) {
  if (n_arguments < 1) error->all(FLERR, std::string("expected: ") + USAGE);
  read_units();
  Settings settings;
  settings.model_path = arguments[0];
  read_keywords(n_arguments, arguments, settings);

  // partitions, as of neb, share the machine; asking them all could wait for ever
  const Place place = find_place_on_node(world);
  const int n_ranks = place.n_ranks * universe->nworlds;
  settings.rank_on_node = place.rank + place.n_ranks * universe->iworld;
  if (settings.n_threads == 0 && n_ranks > 1 && !std::getenv("OMP_NUM_THREADS")) {
    // torch would take every core for every rank
    const int n_cores = std::max(1u, std::thread::hardware_concurrency());
    settings.n_threads = std::max(1, n_cores / n_ranks);
  }
  // LAMMPS keeps coefficients when the same style is set again: those of another model
  if (allocated)
    for (int i = 1; i <= atom->ntypes; i++)
      for (int j = 1; j <= atom->ntypes; j++) setflag[i][j] = 0;
  load(settings);
}

void PairMetatomic::read_keywords(int n_arguments, char **arguments, Settings &settings) {
  range_override_ = 0.0;
  scale_ = 1.0;
  uncertain_ = UncertainSettings();
  exchange_ = Route::AUTO;
  const auto read_route = [&](const char *value) {
    if (std::strcmp(value, "auto") == 0) return Route::AUTO;
    return utils::logical(FLERR, value, false, lmp) ? Route::ON : Route::OFF;
  };
  for (int k = 1; k < n_arguments; k += 2) {
    const std::string keyword = arguments[k];
    if (k + 1 >= n_arguments)
      error->all(FLERR, "pair_style metatomic: keyword " + keyword + " has no value; expected: " +
                            USAGE);
    const char *value = arguments[k + 1];
    if (keyword == "device")
      settings.device = value;
    else if (keyword == "variant")
      settings.variant = value;
    else if (keyword == "extensions")
      settings.extensions = value;
    else if (keyword == "check_consistency")
      settings.check_consistency = utils::logical(FLERR, value, false, lmp);
    else if (keyword == "non_conservative")
      settings.non_conservative = utils::logical(FLERR, value, false, lmp);
    else if (keyword == "engine")
      settings.engine = read_route(value);
    else if (keyword == "exchange")
      exchange_ = read_route(value);
    else if (keyword == "scale")
      scale_ = utils::numeric(FLERR, value, false, lmp);
    else if (read_uncertain_keyword(keyword, value))
      continue;
    else if (keyword == "interaction_range")
      range_override_ = utils::numeric(FLERR, value, false, lmp);
    else if (keyword == "charge")
      settings.charge = utils::numeric(FLERR, value, false, lmp);
    else if (keyword == "spin")
      settings.spin_multiplicity = utils::numeric(FLERR, value, false, lmp);
    else if (keyword == "threads")
      settings.n_threads = utils::inumeric(FLERR, value, false, lmp);
    else
      error->all(FLERR, "pair_style metatomic: unknown keyword " + keyword + "; expected: " +
                            USAGE);
  }
  if (range_override_ < 0.0 || settings.n_threads < 0)
    error->all(FLERR, "pair_style metatomic: interaction_range and threads must be positive");
  range_override_ *= length_to_angstrom_;
  set_watch(settings);
}

// Takes a keyword about uncertain atoms; false if it is none of them.
bool PairMetatomic::read_uncertain_keyword(const std::string &keyword, const char *value) {
  if (keyword == "uncertainty_threshold") {
    uncertain_.has_threshold = true;
    // `off` is in inputs of metatomic's own LAMMPS
    if (std::strcmp(value, "off") == 0) return true;
    uncertain_.threshold = utils::numeric(FLERR, value, false, lmp);
    if (!(uncertain_.threshold > 0.0))
      error->all(FLERR, "pair_style metatomic: uncertainty_threshold must be an energy above "
                        "zero, or off");
  } else if (keyword == "on_uncertain") {
    if (!read_action(value, uncertain_.action))
      error->all(FLERR, std::string("pair_style metatomic: on_uncertain ") + value +
                            ": expected warn, warn_all, stop or write");
    uncertain_.has_action = true;
  } else if (keyword == "uncertain_every") {
    uncertain_.every = utils::inumeric(FLERR, value, false, lmp);
    if (uncertain_.every < 1)
      error->all(FLERR, "pair_style metatomic: uncertain_every must be at least 1");
  } else
    return false;
  return true;
}

void PairMetatomic::set_watch(Settings &settings) {
  watch_.reset();
  settings.with_uncertainties = uncertain_.threshold > 0.0;
  if (uncertain_.has_action && !uncertain_.has_threshold)
    error->all(FLERR, "pair_style metatomic: on_uncertain needs an uncertainty_threshold");
  if (!settings.with_uncertainties) return;
  if (settings.charge != 0.0 || settings.spin_multiplicity != 1.0)
    uncertain_.state = fmt::format(" charge={:g} spin={:g}", settings.charge,
                                   settings.spin_multiplicity);
  watch_ = std::make_unique<UncertaintyWatch>(lmp, uncertain_, ev_to_energy_,
                                              length_to_angstrom_);
}

void PairMetatomic::load(const Settings &settings) {
  model_.reset();
  std::string message;
  try {
    model_ = std::make_unique<Model>(settings);
  } catch (const std::exception &failure) {
    message = failure.what();
  }
  stop_all_if_one_failed(message);
  if (comm->me != 0) return;
  for (const auto &line : {model_->describe(), model_->describe_route()})
    utils::logmesg(lmp, "pair metatomic: " + line + "\n");
}

void PairMetatomic::read_units() {
  const std::string style = update->unit_style;
  if (style == "metal") {
    length_to_angstrom_ = 1.0;
    ev_to_energy_ = 1.0;
  } else if (style == "real") {
    length_to_angstrom_ = 1.0;
    ev_to_energy_ = KCAL_PER_MOL_IN_EV;
  } else if (style == "electron") {
    length_to_angstrom_ = BOHR_IN_ANGSTROM;
    ev_to_energy_ = EV_IN_HARTREE;
  } else {
    error->all(FLERR, "pair_style metatomic: units " + style +
                          " are not supported; use `units metal`, `real` or `electron`");
  }
}

void PairMetatomic::coeff(int n_arguments, char **arguments) {
  const int n_types = atom->ntypes;
  if (!model_) error->all(FLERR, "pair_coeff comes after pair_style metatomic");
  if (n_arguments != n_types + 2 || std::strcmp(arguments[0], "*") != 0 ||
      std::strcmp(arguments[1], "*") != 0)
    error->all(FLERR, "pair_coeff of metatomic: expected `* *` and then one element or atomic "
                      "number for each of the " +
                          std::to_string(n_types) + " atom types, got " +
                          std::to_string(std::max(0, n_arguments - 2)));
  if (!allocated) {
    memory->create(setflag, n_types + 1, n_types + 1, "pair:setflag");
    memory->create(cutsq, n_types + 1, n_types + 1, "pair:cutsq");
    allocated = 1;
  }
  number_of_type_.assign(n_types + 1, 0);
  for (int type = 1; type <= n_types; type++) {
    const std::string word = arguments[type + 1];
    const bool is_number = word.find_first_not_of("0123456789") == std::string::npos;
    const int number = is_number ? utils::inumeric(FLERR, word, false, lmp) : number_of(word);
    if (!model_->knows(number))
      error->all(FLERR, "pair_coeff of metatomic: the model does not know " + word + " (type " +
                            std::to_string(type) + "); its elements are: " +
                            model_->known_elements());
    number_of_type_[type] = number;
  }
  for (int i = 1; i <= n_types; i++)
    for (int j = 1; j <= n_types; j++) setflag[i][j] = 1;
}

void PairMetatomic::init_style() {
  read_units();
  if (watch_) watch_->start_run();
  if (utils::strmatch(force->pair_style, "^hybrid") &&
      !utils::strmatch(force->pair_style, "^hybrid/overlay") &&
      !utils::strmatch(force->pair_style, "^hybrid/scaled"))
    error->all(FLERR, "pair_style metatomic: a model of many-body energies acts on all atoms; use "
                      "`pair_style hybrid/overlay` instead of `hybrid`");
  const auto *p = domain->periodicity;
  if (!model_->has_virial({p[0] != 0, p[1] != 0, p[2] != 0}) && comm->me == 0)
    error->warning(FLERR, "pair_style metatomic: the pressure will be NaN: there is no "
                          "non-conservative stress {}",
                   domain->nonperiodic ? "without periodicity in all directions" : "in the model");
  // no list is requested from LAMMPS: the pairs come from vesin
  if (comm->nprocs == 1) return;
  require_newton_and_ghosts();
  if (!choose_exchange()) require_range();
}

// Whether ranks exchange edges. Then ghosts reach as far as the lists, which LAMMPS sees to.
bool PairMetatomic::choose_exchange() {
  const std::string obstacle = model_->exchange_obstacle();
  if (exchange_ == Route::ON && !obstacle.empty())
    error->all(FLERR, "pair_style metatomic: exchange on: " + obstacle);
  is_exchange_logged_ = false;
  if (exchange_ == Route::OFF || !obstacle.empty()) {
    part_.reset();
    const std::string reason = obstacle.empty() ? "exchange off" : obstacle;
    if (comm->me == 0)
      utils::logmesg(lmp, fmt::format("pair metatomic: ranks exchange no edges, each evaluates all "
                                      "atoms within {:.6g} A of its own: {}\n",
                                      range(), reason));
    return false;
  }
  if (!part_) part_ = std::make_unique<RankPart>(lmp, length_to_angstrom_);
  return true;
}

void PairMetatomic::setup() {
  if (part_) part_->expect_new_lists();
  // not in init_style, at which time LAMMPS has not yet set the flag
  if (!neighbor->exclude) return;
  // fixes that set exclusions themselves: nobody wrote the command
  for (const auto *fix : modify->get_fix_list())
    if (utils::strmatch(fix->style, "^gcmc") || utils::strmatch(fix->style, "^widom") ||
        utils::strmatch(fix->style, "^charge/regulation"))
      error->all(FLERR, std::string("pair_style metatomic: fix ") + fix->style + " (" + fix->id +
                            ") hides atoms from the neighbor lists while it tries a move, which "
                            "a model of many-body energies cannot follow; docs/lammps.md lists "
                            "what adds and removes atoms with this model");
  error->all(FLERR, "pair_style metatomic: `neigh_modify exclude` has no effect on a model "
                    "of many-body energies; remove it");
}

void PairMetatomic::require_newton_and_ghosts() {
  if (!force->newton_pair)
    error->all(FLERR, "pair_style metatomic: several ranks need `newton on`");
  if (!atom->tag_enable)
    error->all(FLERR, "pair_style metatomic: several ranks need atom IDs; remove "
                      "`atom_modify id no`");
  if (comm->mode != Comm::SINGLE)
    error->all(FLERR, "pair_style metatomic: use `comm_modify mode single`");
  if (GhostGroup::of(comm) != 0)
    error->all(FLERR, "pair_style metatomic: the model needs all atoms around those of a rank; "
                      "remove `comm_modify group`");
}

void PairMetatomic::require_range() {
  const double declared = model_->declared_range(), reached = model_->pet_range();
  if (reached == 0.0 && range_override_ == 0.0)
    error->all(FLERR,
               "pair_style metatomic: the file holds no PET whose interaction range can be checked, "
               "and a declared range that is too small would give wrong forces on several ranks. "
               "Run on one rank, or state a range that you trust with the keyword "
               "interaction_range");
  if (!std::isfinite(range()))
    error->all(FLERR, "pair_style metatomic: the model's interaction range is infinite; run on "
                      "one rank");
  // the last digits of a declared number are not a correction
  if (reached > declared * (1.0 + 1e-6) && comm->me == 0)
    utils::logmesg(lmp, fmt::format("pair metatomic: the file declares an interaction range of "
                                    "{:.6g} A, but its layers reach {:.6g} A, which is used\n",
                                    declared, reached));
  // not through the pair cutoff: that would also widen the lists of other pair styles
  const double wanted = range() / length_to_angstrom_ + neighbor->skin;
  comm->cutghostuser = std::max(comm->cutghostuser, wanted);
}

double PairMetatomic::range() const {
  return std::max({range_override_, model_->declared_range(), model_->pet_range()});
}

double PairMetatomic::init_one(int i, int j) {
  if (setflag[i][j] == 0)
    error->all(FLERR, "pair_style metatomic: give every atom type an element with "
                      "`pair_coeff * * ...`");
  return model_->cutoff() / length_to_angstrom_;
}

void PairMetatomic::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  if (vflag_atom || cvflag_atom)
    error->all(FLERR, "pair_style metatomic: the model has no virial per atom; remove `compute "
                      "stress/atom`, or leave `pair` out of it");
  if (eflag_atom && !model_->has_energies())
    error->all(FLERR, "pair_style metatomic: the model has no energies per atom; remove `compute "
                      "pe/atom`");
  uncertainties_.clear();
  std::fill_n(extra_, nextra, 0.0);
  if (part_) {
    compute_part();
    if (watch_) stop_all_if_one_failed(watch_->look(uncertainties_, number_of_type_));
    return;
  }
  std::string message;
  try {
    // a rank without atoms has no part in the energy; its ghosts' forces come from others
    if (atom->nlocal > 0) {
      fill_structure();
      add_results(model_->evaluate(structure_));
    }
  } catch (const std::exception &failure) {
    message = failure.what();
  }
  // outside the handler: LAMMPS's own exceptions pass through freely
  stop_all_if_one_failed(message);
  if (watch_) stop_all_if_one_failed(watch_->look(uncertainties_, number_of_type_));
}

// The ranks' pass together.
void PairMetatomic::compute_part() {
  if (!part_->is_current()) renew_plan();
  MpiExchange &exchange = part_->exchange();
  exchange.begin_step();
  std::string message;
  try {
    // one without atoms has no borders
    if (atom->nlocal > 0) {
      part_->watch_moves();
      fill_structure();
      add_results(model_->evaluate(structure_, part_->pairs(), exchange));
    }
  } catch (const std::exception &failure) {
    // the reason is that of the rank which failed by itself
    if (!exchange.was_stopped()) {
      message = failure.what();
      exchange.raise_alarm();
    }
  }
  stop_all_if_one_failed(message);
  extra_[1] = static_cast<double>(exchange.n_rows());
  extra_[2] = static_cast<double>(exchange.n_bytes());
  extra_[3] = exchange.seconds();
  if (!is_exchange_logged_) log_exchange();
}

void PairMetatomic::renew_plan() {
  part_->find_origins(this);
  std::string message;
  try {
    part_->find_pairs(model_->cutoff());
  } catch (const std::exception &failure) {
    message = failure.what();
  }
  stop_all_if_one_failed(message);
  stop_all_if_one_failed(part_->agree());
}

void PairMetatomic::log_exchange() {
  is_exchange_logged_ = true;
  double total[2];
  MPI_Reduce(extra_ + 1, total, 2, MPI_DOUBLE, MPI_SUM, 0, world);
  if (comm->me != 0) return;
  const double reach = model_->cutoff() + neighbor->skin * length_to_angstrom_;
  utils::logmesg(lmp, fmt::format("pair metatomic: {} ranks exchange edges: ghosts reach {:.6g} A; "
                                  "{:.0f} edges across borders, {:.0f} bytes a step in all\n",
                                  comm->nprocs, reach, 0.5 * total[0], total[1]));
}

int PairMetatomic::pack_forward_comm(int n, int *list, double *buffer, int is_image, int *image) {
  return part_->pack(n, list, buffer, is_image ? image : nullptr);
}

void PairMetatomic::unpack_forward_comm(int n, int first, double *buffer) {
  part_->unpack(n, first, buffer);
}

void PairMetatomic::fill_structure() {
  const double *h = domain->h;
  const bool is_tilted = domain->triclinic != 0;
  // LAMMPS's order is xx, yy, zz, yz, xz, xy
  const double rows[3][3] = {{h[0], 0.0, 0.0},
                             {is_tilted ? h[5] : 0.0, h[1], 0.0},
                             {is_tilted ? h[4] : 0.0, is_tilted ? h[3] : 0.0, h[2]}};
  for (int row = 0; row < 3; row++) {
    structure_.periodic[row] = domain->periodicity[row] != 0;
    for (int column = 0; column < 3; column++)
      structure_.cell[3 * row + column] =
          structure_.periodic[row] ? rows[row][column] * length_to_angstrom_ : 0.0;
  }
  structure_.n_centers = atom->nlocal;
  structure_.need_virial = vflag_global != 0;
  structure_.need_energies = eflag_atom != 0;

  atom_of_.resize(atom->nlocal);
  for (int i = 0; i < atom->nlocal; i++) atom_of_[i] = i;
  if (part_)
    atom_of_.insert(atom_of_.end(), part_->ghosts().begin(), part_->ghosts().end());
  else if (comm->nprocs > 1)
    choose_ghosts();

  const size_t n_atoms = atom_of_.size();
  extra_[0] = static_cast<double>(part_ ? atom->nlocal : n_atoms);
  structure_.numbers.resize(n_atoms);
  structure_.positions.resize(3 * n_atoms);
  for (size_t k = 0; k < n_atoms; k++) {
    const int i = atom_of_[k];
    structure_.numbers[k] = number_of_type_[atom->type[i]];
    for (int axis = 0; axis < 3; axis++) {
      const double position = atom->x[i][axis] * length_to_angstrom_;
      if (!std::isfinite(position))
        throw std::runtime_error("the position of atom " + std::to_string(atom->tag[i]) +
                                 " at step " + std::to_string(update->ntimestep) +
                                 " is not finite; look at the forces before, and the timestep");
      structure_.positions[3 * k + axis] = position;
    }
  }
}

// Adds to atom_of_ one image of each foreign atom that can matter to an own one. The
// images of all atoms, own ones too, follow from the cell.
void PairMetatomic::choose_ghosts() {
  double low[3], high[3];
  for (int axis = 0; axis < 3; axis++) low[axis] = high[axis] = atom->x[0][axis];
  std::unordered_set<tagint> taken;
  taken.reserve(2 * atom->nlocal);
  for (int i = 0; i < atom->nlocal; i++) {
    taken.insert(atom->tag[i]);
    for (int axis = 0; axis < 3; axis++) {
      low[axis] = std::min(low[axis], atom->x[i][axis]);
      high[axis] = std::max(high[axis], atom->x[i][axis]);
    }
  }
  const int n_all = atom->nlocal + atom->nghost;
  for (int i = atom->nlocal; i < n_all; i++) {
    if (!is_near_own_atoms(atom->x[i], low, high)) continue;
    if (taken.insert(atom->tag[i]).second) atom_of_.push_back(i);
  }
}

bool PairMetatomic::is_near_own_atoms(const double *point, const double *low,
                                      const double *high) const {
  const double reach = range() / length_to_angstrom_;
  double squared = 0.0;
  for (int axis = 0; axis < 3; axis++) {
    const double gap = std::max({low[axis] - point[axis], point[axis] - high[axis], 0.0});
    squared += gap * gap;
  }
  return squared <= reach * reach;
}

void PairMetatomic::add_results(const Result &result) {
  uncertainties_ = result.uncertainties;
  const double to_energy = scale_ * ev_to_energy_;
  const double to_force = to_energy * length_to_angstrom_;
  for (size_t k = 0; k < atom_of_.size(); k++) {
    const double *force_k = &result.forces[3 * k];
    if (!std::isfinite(force_k[0] + force_k[1] + force_k[2]))
      throw std::runtime_error(
          "the force on atom " + std::to_string(atom->tag[atom_of_[k]]) + " at step " +
          std::to_string(update->ntimestep) +
          " is not finite; look at the structure, the timestep, and the range of the model");
    for (int axis = 0; axis < 3; axis++) atom->f[atom_of_[k]][axis] += to_force * force_k[axis];
  }
  if (!std::isfinite(result.energy))
    throw std::runtime_error("the energy at step " + std::to_string(update->ntimestep) +
                             " is not finite; look at the structure, and the weights of the model");
  if (eflag_global) eng_vdwl += to_energy * result.energy;
  if (eflag_atom)
    for (int i = 0; i < atom->nlocal; i++) eatom[i] += to_energy * result.energies[i];
  if (vflag_global) {
    for (int k = 0; k < 6; k++) {
      const int row = VIRIAL_ROW[k], column = VIRIAL_COLUMN[k];
      // the energy depends on the symmetric part of the strain only up to the model's error
      // in rotations, hence the mean of the two
      virial[k] += to_energy * 0.5 *
          (result.virial[3 * row + column] + result.virial[3 * column + row]);
    }
  }
}

// Called by all ranks together: one that goes on alone would wait for the others for ever.
void PairMetatomic::stop_all_if_one_failed(const std::string &message) {
  int own = message.empty() ? comm->nprocs : comm->me, first = 0;
  MPI_Allreduce(&own, &first, 1, MPI_INT, MPI_MIN, world);
  if (first == comm->nprocs) return;
  int length = static_cast<int>(message.size());
  MPI_Bcast(&length, 1, MPI_INT, first, world);
  std::string text = message;
  text.resize(length);
  MPI_Bcast(&text[0], length, MPI_CHAR, first, world);
  // messages may still be on their way to buffers of this: they must stay
  part_.release();
  error->all(FLERR, "pair_style metatomic: " + text);
}

}    // namespace pet_calc
