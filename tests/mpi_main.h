#ifndef LONGSPAN_TESTS_MPI_MAIN_H_
#define LONGSPAN_TESTS_MPI_MAIN_H_

#include "collectives/communicator.h"

// For tests under mpirun (longspan_mpi_test in tests/CMakeLists.txt). All ranks run the same tests
// at the same time and meet after each.
namespace longspan {

Communicator& TestWorld();

}  // namespace longspan

#endif  // LONGSPAN_TESTS_MPI_MAIN_H_
