#ifndef LONGSPAN_RUNTIME_JINJA_BUILTINS_H_
#define LONGSPAN_RUNTIME_JINJA_BUILTINS_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/jinja/value.h"

namespace longspan::jinja {

struct Rendering;  // jinja/eval.h

struct CallArguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

// A filter, test, method or function. `self` is what it is applied to.
using BuiltinCall = absl::StatusOr<Value> (*)(Rendering& rendering, const Value& self,
                                              const CallArguments& arguments);

struct Builtin {
  std::string_view name;
  // Names of the parameters, with a `?` behind optional ones; a leading `/` if none can be given
  // by name. The call gets one positional argument for each, Missing for those not given. "*": the
  // call gets the arguments as they are.
  std::string_view parameters;
  BuiltinCall call;
};

absl::StatusOr<Value> CallBuiltin(Rendering& rendering, const Builtin& builtin, const Value& self,
                                  const CallArguments& arguments);

const Builtin* FindIn(absl::Span<const Builtin> table, std::string_view name);
std::string NamesIn(absl::Span<const Builtin> table);

// nullptr: there is none of this name.
const Builtin* FindFilter(std::string_view name);
std::string FilterNames();
const Builtin* FindTest(std::string_view name);
std::string TestNames();
const Builtin* FindFunction(std::string_view name);
// A method of this object. Unimplemented: Python has it, but this interpreter has not.
absl::StatusOr<const Builtin*> FindMethod(const Value& object, std::string_view name);
// Such that changes its object, which templates may not do.
bool IsForbiddenMethod(const Value& object, std::string_view name);

// The attribute of an object, else its item (object.name); or its item, else its attribute
// (object[key]). Undefined where it has neither.
absl::StatusOr<Value> GetAttribute(Rendering& rendering, const Value& object,
                                   const std::string& name);
absl::StatusOr<Value> GetItem(Rendering& rendering, const Value& object, const Value& key);

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_BUILTINS_H_
