#ifndef LONGSPAN_SHARDING_BACKEND_H_
#define LONGSPAN_SHARDING_BACKEND_H_

namespace longspan {

// What ranks compute on: calls and kernels of a layer differ.
enum class Backend { kCpu, kGpu };

}  // namespace longspan

#endif  // LONGSPAN_SHARDING_BACKEND_H_
