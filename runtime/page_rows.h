#ifndef LONGSPAN_RUNTIME_PAGE_ROWS_H_
#define LONGSPAN_RUNTIME_PAGE_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "runtime/kv_shard.h"
#include "sharding/sequence_layout.h"

namespace longspan {

// A page in host memory, its second part behind the first: [shape.page_bytes()].
struct HostPage {
  const KvShape* shape;
  int64_t begin;  // position of the stripe's first token
  std::byte* bytes;
};

// Copies what `from` holds of the positions `valid`, halos included, to where `to` holds the same
// positions. Shapes may differ in the length of their stripes alone.
void CopyRows(const HostPage& from, Range valid, const HostPage& to);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PAGE_ROWS_H_
