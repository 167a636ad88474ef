#ifndef LONGSPAN_RUNTIME_JINJA_AST_H_
#define LONGSPAN_RUNTIME_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/jinja/value.h"

namespace longspan::jinja {

// A filter, test, method or function of Python or jinja2 (jinja/builtins.h).
struct Builtin;

enum class ExprKind {
  kConstant,
  kName,
  kList,
  kTuple,
  kDict,       // children: key, value, key, value, ...
  kAttribute,  // child.name
  kItem,       // children[0][children[1]]
  kSlice,      // children: begin, end, step, each may be nullptr; only in a kItem
  kCall,       // children[0](arguments)
  kFilter,     // children[0] | name(arguments); children[0] is nullptr for what a block prints
  kTest,       // children[0] is name(arguments)
  kNot,
  kNegative,
  kPositive,
  kAnd,
  kOr,
  kConditional,  // children: value, condition, other value or nullptr
  kConcat,
  kBinary,   // children[0] name children[1]
  kCompare,  // children[0] names[0] children[1] names[1] children[2] ...
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Arguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr positional_list;  // *list
  ExprPtr named_dict;       // **dict
};

struct Expr {
  ExprKind kind;
  int line;
  int depth = 1;                   // of the tree below
  std::string name;                // variable, attribute, filter, test, operator
  std::vector<std::string> names;  // operators of kCompare
  std::vector<ExprPtr> children;
  Arguments arguments;
  Value constant;
  const Builtin* builtin = nullptr;  // of kFilter and kTest
};

enum class StatementKind {
  kData,
  kPrint,     // expressions
  kIf,        // branches: body of expressions[i] is bodies[i]; one more body is the else
  kFor,       // targets in expressions[0] if expressions[1]; bodies: body, else
  kSet,       // targets = expressions[0]
  kSetBlock,  // targets = bodies[0], through the filter expressions[0] if not nullptr
  kFilter,    // bodies[0] through the filter expressions[0]
  kWith,      // expressions[i] to targets[i].names in bodies[0]
  kMacro,
  kGeneration,
  kBreak,
  kContinue,
};

// What is assigned to: a name, the attribute of a namespace, or several of them.
struct Target {
  int line = 0;
  std::string name;
  std::string attribute;         // not empty: name.attribute
  std::vector<Target> elements;  // of a tuple, then `name` is empty
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Parameter {
  std::string name;
  ExprPtr default_value;
};

struct Statement {
  StatementKind kind;
  int line;
  std::string text;  // of kData; name of a macro
  std::vector<ExprPtr> expressions;
  std::vector<Body> bodies;
  std::vector<Target> targets;
  std::vector<Parameter> parameters;
  bool catches_positional = false;  // a macro that uses `varargs`
  bool catches_named = false;       // and `kwargs`
};

}  // namespace longspan::jinja

#endif  // LONGSPAN_RUNTIME_JINJA_AST_H_
