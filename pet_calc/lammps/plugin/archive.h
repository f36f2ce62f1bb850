// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

#ifndef PET_CALC_ARCHIVE_H
#define PET_CALC_ARCHIVE_H

#include <string>

namespace pet_calc {

// Throws std::runtime_error if an entry of a zip archive differs from its checksum: torch does
// not look at them. Compressed entries (code; tensors in files that were packed again) are
// unpacked for it. Does nothing for files that are no zip archives.
void check_archive(const std::string &path);

}    // namespace pet_calc

#endif
