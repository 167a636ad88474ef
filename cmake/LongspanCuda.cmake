# The CUDA toolkit, and what CUDA sources compile with. Machine code for Hopper (with its own
# instructions) and for the oldest supported architecture; later ones compile the PTX of the latter.
set(LONGSPAN_CUDA_ARCHITECTURES "80-real;90a-real;80-virtual" CACHE STRING
    "Architectures as in CMAKE_CUDA_ARCHITECTURES, but with the letter of sm_90a")

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(LONGSPAN_NVCC nvcc PATHS /usr/local/cuda/bin)
  if(NOT LONGSPAN_NVCC)
    message(FATAL_ERROR "LONGSPAN_CUDA=ON, but there is no nvcc: install the CUDA toolkit (13.0), or use the preset cpu")
  endif()
  set(CMAKE_CUDA_COMPILER ${LONGSPAN_NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)  # CMake 3.25 does not know 90a
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
# Nor the dialect 20 of nvcc 13.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")

add_library(longspan_cuda_options INTERFACE)
foreach(architecture IN LISTS LONGSPAN_CUDA_ARCHITECTURES)
  string(REGEX MATCH "^([0-9]+a?)-(real|virtual)$" matched "${architecture}")
  if(NOT matched)
    message(FATAL_ERROR "LONGSPAN_CUDA_ARCHITECTURES: expected 80-real or 80-virtual, not ${architecture}")
  endif()
  set(code "$<IF:$<STREQUAL:${CMAKE_MATCH_2},real>,sm,compute>_${CMAKE_MATCH_1}")
  target_compile_options(longspan_cuda_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-gencode=arch=compute_${CMAKE_MATCH_1}$<COMMA>code=${code}>")
endforeach()
target_compile_options(longspan_cuda_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:--expt-relaxed-constexpr --extended-lambda>")

option(LONGSPAN_NCCL "Ranks with a GPU each can talk over NCCL" ON)
if(LONGSPAN_NCCL)
  include(LongspanNccl)
endif()
