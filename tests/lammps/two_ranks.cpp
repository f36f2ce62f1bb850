// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers

// Two ranks with two atoms each, in a row along x, agree on the pairs across their border. Each
// places the ghost of the other's nearest atom where the arguments say: x on rank 0, x on rank 1,
// and the reach. Each prints its rank, its pairs, those that cross, and what is wrong.

#include <cstdlib>
#include <iostream>
#include <sstream>

#include "plan.h"

int main(int argc, char **argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const double ghost = std::atof(argv[1 + rank]), reach = std::atof(argv[3]);
  const double own = rank == 0 ? 0.0 : 2.0;
  const std::vector<double> positions{own, 0, 0, own + 1.0, 0, 0, ghost, 0, 0};
  const std::vector<pet_calc::Origin> origins{
      {rank, 0, {}}, {rank, 1, {}}, {1 - rank, rank == 0 ? 0 : 1, {}}};
  pet_calc::BorderPlan plan;
  plan.find(positions, origins, 2, rank, reach);
  const std::string message = plan.agree(MPI_COMM_WORLD);
  std::ostringstream line;
  line << rank << "|" << plan.pairs.centers.size() << "|" << plan.pairs.crossings.rows.size()
       << "|" << message << "\n";
  std::cout << line.str() << std::flush;
  MPI_Finalize();
}
