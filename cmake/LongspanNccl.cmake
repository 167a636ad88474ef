# NCCL, with which ranks talk from GPU to GPU. NCCL_ROOT (a variable here or in the environment) says
# where it is, if not with the CUDA toolkit or the system's libraries; a pip wheel's folder will do.
set(roots ${NCCL_ROOT} $ENV{NCCL_ROOT})
find_path(LONGSPAN_NCCL_INCLUDE_DIR nccl.h
  HINTS ${roots} ${CUDAToolkit_INCLUDE_DIRS} PATHS /usr/local /usr PATH_SUFFIXES include)
find_library(LONGSPAN_NCCL_LIBRARY NAMES nccl libnccl.so.2 NAMES_PER_DIR
  HINTS ${roots} ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT} PATHS /usr/local /usr
  PATH_SUFFIXES lib lib64)
mark_as_advanced(LONGSPAN_NCCL_INCLUDE_DIR LONGSPAN_NCCL_LIBRARY)
if(NOT LONGSPAN_NCCL_INCLUDE_DIR OR NOT LONGSPAN_NCCL_LIBRARY)
  message(FATAL_ERROR "LONGSPAN_NCCL=ON, but NCCL was not found: install libnccl2 and libnccl-dev (2.19 or later), say where it is with -DNCCL_ROOT=..., or build without it (-DLONGSPAN_NCCL=OFF)")
endif()
file(STRINGS ${LONGSPAN_NCCL_INCLUDE_DIR}/nccl.h version REGEX "^#define NCCL_VERSION_CODE ")
string(REGEX MATCH "[0-9]+" version "${version}")
if(version LESS 21900)
  message(FATAL_ERROR "The nccl.h in ${LONGSPAN_NCCL_INCLUDE_DIR} is older than 2.19: install a later NCCL, say where it is with -DNCCL_ROOT=..., or build without it (-DLONGSPAN_NCCL=OFF)")
endif()
message(STATUS "NCCL ${version}: ${LONGSPAN_NCCL_LIBRARY}")

add_library(NCCL::nccl UNKNOWN IMPORTED)
set_target_properties(NCCL::nccl PROPERTIES
  IMPORTED_LOCATION ${LONGSPAN_NCCL_LIBRARY}
  INTERFACE_INCLUDE_DIRECTORIES ${LONGSPAN_NCCL_INCLUDE_DIR})
