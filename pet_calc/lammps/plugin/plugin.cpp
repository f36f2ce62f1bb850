// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers
//
// What LAMMPS looks for when it loads `metatomicplugin.so`.

#include <cstdio>

#include "lammps.h"
#include "library.h"

#include "pair_metatomic.h"

#ifndef PET_CALC_LAMMPS_VERSION
#error "compile with `pet-calc lammps build`, which says which LAMMPS the headers belong to"
#endif

namespace {

// The record that LAMMPS's plugin interface documents; its header is not in the wheel.
struct PluginRecord {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  void *(*creator)(void *);
  void *handle;
};
using RegisterFunction = void (*)(PluginRecord *, void *);

void *create_pair(void *lmp) {
  return new pet_calc::PairMetatomic(static_cast<LAMMPS_NS::LAMMPS *>(lmp));
}

}    // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *register_plugin) {
  // a C function, safe to call whatever the layout of this LAMMPS's classes is
  const int found = lammps_version(lmp);
  if (found != PET_CALC_LAMMPS_VERSION) {
    std::fprintf(stderr,
                 "pair_style metatomic is not available: its plugin was compiled for LAMMPS %d, "
                 "this is %d; run `pet-calc lammps build`\n",
                 PET_CALC_LAMMPS_VERSION, found);
    return;
  }
  PluginRecord record{};
  record.version = static_cast<LAMMPS_NS::LAMMPS *>(lmp)->version;
  record.style = "pair";
  record.name = "metatomic";
  record.info = "metatomic models (PET), from pet-calc";
  record.author = "the pet-calc developers";
  record.creator = create_pair;
  record.handle = handle;
  reinterpret_cast<RegisterFunction>(register_plugin)(&record, lmp);
}
