#include <cblas.h>
#include <mpi.h>
#include <spdlog/version.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#ifdef LONGSPAN_CUDA
#include "collectives/nccl_communicator.h"
#endif
#include "launcher/subcommand.h"

namespace longspan {
namespace {

std::string MpiVersion() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(version, &length);  // may be called before MPI_Init
  const std::string text(version, static_cast<size_t>(length));
  return text.substr(0, text.find(','));
}

std::string NcclText() {
#ifdef LONGSPAN_CUDA
  const std::string version = NcclVersion();
  if (!version.empty()) return version;
#endif
  return "no";
}

}  // namespace

std::string VersionText() {
#ifdef LONGSPAN_CUDA
  constexpr absl::string_view kCuda = "yes";
#else
  constexpr absl::string_view kCuda = "no";
#endif
  constexpr absl::string_view kSanitizer = LONGSPAN_BUILD_SANITIZE;
  return absl::StrCat("longspan ", LONGSPAN_VERSION, "\n",                                 //
                      "build         ", LONGSPAN_BUILD_TYPE, ", g++ ", __VERSION__, "\n",  //
                      "CPU           ", LONGSPAN_BUILD_CPU_ARCH, "\n",                     //
                      "sanitizer     ", kSanitizer.empty() ? "none" : kSanitizer, "\n",    //
                      "BLAS          ", openblas_get_config(), "\n",                       //
                      "communicators threads, mpi (", MpiVersion(), ")\n",                 //
                      "CUDA          ", kCuda, "\n",                                       //
                      "NCCL          ", NcclText(), "\n");
}

}  // namespace longspan
