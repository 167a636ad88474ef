// Makes NCCL refuse windows, in any executable that it is linked into.
#include <dlfcn.h>
#include <nccl.h>

#include "gtest/gtest.h"

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 9)

// NCCL's functions are weak symbols, for profilers: this one takes the place of its own. With two
// ranks it fails on both; with more on the last one only, for which the others wait in NCCL until
// half of the timeout is over.
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void* data, size_t bytes, ncclWindow_t* window,
                                    int flags) {
  int ranks = 0, rank = 0;
  const ncclResult_t counted = ncclCommCount(comm, &ranks);
  if (counted != ncclSuccess) return counted;
  const ncclResult_t ranked = ncclCommUserRank(comm, &rank);
  if (ranked != ncclSuccess) return ranked;
  if (ranks <= 2 || rank == ranks - 1) return ncclSystemError;
  return pncclCommWindowRegister(comm, data, bytes, window, flags);
}

namespace longspan {
namespace {

// How the communicator finds it.
TEST(RefusedWindowsTest, AreThoseThatAreAskedFor) {
  EXPECT_EQ(dlsym(RTLD_DEFAULT, "ncclCommWindowRegister"),
            reinterpret_cast<void*>(&ncclCommWindowRegister));
}

}  // namespace
}  // namespace longspan

#endif
