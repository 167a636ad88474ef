#ifndef LONGSPAN_RUNTIME_PREFIX_IDENTITY_H_
#define LONGSPAN_RUNTIME_PREFIX_IDENTITY_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "collectives/communicator.h"
#include "runtime/config.h"
#include "runtime/model.h"

namespace longspan {

// What numbers in cached pages depend on, by name: only a run that agrees in all may take them.
using PrefixIdentity = std::map<std::string, std::string>;

// Of a loaded model. Reads all weights, each rank a part of them. Collective.
absl::StatusOr<PrefixIdentity> MakePrefixIdentity(const Config& config, const Model& model,
                                                  Communicator* communicator);

// "esa.top_k is 512 there and 256 here; ..."; empty: they agree.
std::string IdentityDifferences(const PrefixIdentity& there, const PrefixIdentity& here);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_PREFIX_IDENTITY_H_
