// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#include "uncertain.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "fmt/format.h"
#include "universe.h"
#include "update.h"
#include "utils.h"

#include "model.h"

using namespace LAMMPS_NS;

namespace pet_calc {

namespace {

// a message names this many atoms
constexpr size_t MOST_NAMED = 5;

// not a number: there is nothing more uncertain
double rank_of(double uncertainty) { return std::isnan(uncertainty) ? INFINITY : uncertainty; }

std::string name_unit(const std::string &style) {
  return style == "metal" ? "eV" : style == "real" ? "kcal/mol" : "Hartree";
}

}    // namespace

bool read_action(const std::string &word, OnUncertain &action) {
  if (word == "warn")
    action = OnUncertain::WARN;
  else if (word == "warn_all")
    action = OnUncertain::WARN_ALL;
  else if (word == "stop")
    action = OnUncertain::STOP;
  else if (word == "write")
    action = OnUncertain::WRITE;
  else
    return false;
  return true;
}

UncertaintyWatch::UncertaintyWatch(LAMMPS *lmp, const UncertainSettings &settings, double ev,
                                   double angstrom)
    : Pointers(lmp), settings_(settings), ev_(ev), angstrom_(angstrom),
      limit_(settings.threshold / ev) {}

void UncertaintyWatch::start_run() {
  has_warned_ = false;
  last_written_ = -1;
}

// written so that what is not a number is uncertain as well
bool UncertaintyWatch::is_uncertain(double value) const { return !(value <= limit_); }

std::string UncertaintyWatch::look(const std::vector<double> &uncertainties,
                                   const std::vector<int> &number_of_type) {
  const bool writes = settings_.action == OnUncertain::WRITE;
  // the same on all ranks: they go on together
  if (settings_.action == OnUncertain::WARN && has_warned_) return "";
  if (writes && last_written_ >= 0 && update->ntimestep >= last_written_ &&
      update->ntimestep - last_written_ < settings_.every)
    return "";
  long long n_own = 0, n_uncertain = 0;
  for (const double value : uncertainties) n_own += is_uncertain(value);
  MPI_Allreduce(&n_own, &n_uncertain, 1, MPI_LONG_LONG, MPI_SUM, world);
  if (n_uncertain == 0) return "";

  auto atoms = gather(uncertainties, number_of_type, writes);
  const bool is_first = !has_warned_;
  has_warned_ = true;
  last_written_ = update->ntimestep;
  if (comm->me != 0) return "";
  std::vector<Atom> uncertain;
  std::copy_if(atoms.begin(), atoms.end(), std::back_inserter(uncertain),
               [&](const Atom &each) { return is_uncertain(each.uncertainty); });
  const std::string text = describe(std::move(uncertain));
  if (settings_.action == OnUncertain::STOP) return text;
  std::string note;
  if (settings_.action == OnUncertain::WARN) note = "; later steps of this run are not named";
  if (writes) {
    const std::string reason = write(std::move(atoms), n_uncertain);
    if (!reason.empty()) return reason;
    note = fmt::format("; this frame and later ones of the run, {} steps apart or more, are "
                       "added to {}", settings_.every, name_file());
  }
  // warnings are LAMMPS's to count and to silence
  if (is_first || settings_.action == OnUncertain::WARN_ALL)
    error->warning(FLERR, "pair_style metatomic: " + text + note);
  return "";
}

// Atoms of all ranks on the first one, sorted by ID: all, or the uncertain ones.
std::vector<UncertaintyWatch::Atom> UncertaintyWatch::gather(
    const std::vector<double> &uncertainties, const std::vector<int> &number_of_type,
    bool takes_all) const {
  std::vector<Atom> own;
  for (size_t i = 0; i < uncertainties.size(); i++) {
    if (!takes_all && !is_uncertain(uncertainties[i])) continue;
    // without IDs there is one rank, and the order of its atoms
    const double tag = atom->tag_enable ? static_cast<double>(atom->tag[i]) : i + 1.0;
    const double *x = atom->x[i];
    own.push_back({tag, static_cast<double>(number_of_type[atom->type[i]]),
                   {x[0], x[1], x[2]}, uncertainties[i]});
  }
  constexpr int WIDTH = sizeof(Atom) / sizeof(double);
  int n_own = WIDTH * static_cast<int>(own.size());
  std::vector<int> counts(comm->nprocs), starts(comm->nprocs, 0);
  MPI_Gather(&n_own, 1, MPI_INT, counts.data(), 1, MPI_INT, 0, world);
  for (int rank = 1; rank < comm->nprocs; rank++)
    starts[rank] = starts[rank - 1] + counts[rank - 1];
  std::vector<Atom> all;
  if (comm->me == 0) all.resize((starts.back() + counts.back()) / WIDTH);
  MPI_Gatherv(own.data(), n_own, MPI_DOUBLE, all.data(), counts.data(), starts.data(), MPI_DOUBLE,
              0, world);
  std::sort(all.begin(), all.end(), [](const Atom &a, const Atom &b) { return a.tag < b.tag; });
  return all;
}

std::string UncertaintyWatch::describe(std::vector<Atom> uncertain) const {
  std::stable_sort(uncertain.begin(), uncertain.end(), [](const Atom &a, const Atom &b) {
    return rank_of(a.uncertainty) > rank_of(b.uncertainty);
  });
  std::string text = fmt::format(
      "at step {} the energies of {} of {} atoms are uncertain by more than {:g} {}: ",
      update->ntimestep, uncertain.size(), atom->natoms, settings_.threshold,
      name_unit(update->unit_style));
  for (size_t k = 0; k < std::min(uncertain.size(), MOST_NAMED); k++)
    text += fmt::format("{}atom {:.0f} ({}) {:.3g}", k == 0 ? "" : ", ", uncertain[k].tag,
                        symbol_of(static_cast<int>(uncertain[k].number)),
                        uncertain[k].uncertainty * ev_);
  if (uncertain.size() > MOST_NAMED)
    text += fmt::format(" and {} more", uncertain.size() - MOST_NAMED);
  return text;
}

// Each partition of a run has a file of its own, as it has a log.
std::string UncertaintyWatch::name_file() const {
  if (universe->nworlds == 1) return "uncertain.xyz";
  return "uncertain." + std::to_string(universe->iworld) + ".xyz";
}

// Adds a frame to the file, in eV and Angstrom as ASE reads it; returns what went wrong.
std::string UncertaintyWatch::write(std::vector<Atom> atoms, long long n_uncertain) const {
  const double *h = domain->h;
  // xx, yy, zz, yz, xz, xy
  const double rows[9] = {h[0], 0.0, 0.0, h[5], h[1], 0.0, h[4], h[3], h[2]};
  std::string cell, periodic;
  for (int k = 0; k < 9; k++) cell += fmt::format("{}{:.12g}", k ? " " : "", rows[k] * angstrom_);
  for (int axis = 0; axis < 3; axis++)
    periodic += fmt::format("{}{}", axis ? " " : "", domain->periodicity[axis] ? "T" : "F");
  double largest = 0.0;
  for (const Atom &each : atoms)
    if (rank_of(each.uncertainty) > largest) largest = rank_of(each.uncertainty);
  std::string text = fmt::format(
      "{}\nLattice=\"{}\" Properties=species:S:1:pos:R:3:id:I:1:pet_energies_uncertainty:R:1 "
      "pbc=\"{}\" step={} n_uncertain={} largest_uncertainty={:.9g}{}\n",
      atoms.size(), cell, periodic, update->ntimestep, n_uncertain, largest, settings_.state);
  for (const Atom &each : atoms)
    text += fmt::format("{} {:.10f} {:.10f} {:.10f} {:.0f} {:.9g}\n",
                        symbol_of(static_cast<int>(each.number)), each.position[0] * angstrom_,
                        each.position[1] * angstrom_, each.position[2] * angstrom_, each.tag,
                        each.uncertainty);
  // added to: what an earlier run found is not lost
  std::ofstream file(name_file(), std::ios::app);
  file << text;
  file.close();
  if (file.fail())
    return "cannot write " + name_file() + " in this folder; is there space, and may you write?";
  return "";
}

}    // namespace pet_calc
