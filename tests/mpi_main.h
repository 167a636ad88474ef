#ifndef LONGSPAN_TESTS_MPI_MAIN_H_
#define LONGSPAN_TESTS_MPI_MAIN_H_

#include <string>

#include "collectives/communicator.h"

// For tests under mpirun (longspan_mpi_test in tests/CMakeLists.txt). All ranks run the same tests
// at the same time and meet after each.
namespace longspan {

Communicator& TestWorld();
// The value of --communicator, for tests of several kinds; empty without it.
const std::string& TestCommunicatorKind();

}  // namespace longspan

#endif  // LONGSPAN_TESTS_MPI_MAIN_H_
