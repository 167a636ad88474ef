#include "runtime/jinja/eval.h"

#include <utility>

#include "kernels/base/status_macros.h"
#include "runtime/jinja/builtins.h"

namespace longspan::jinja {

// ---- Rendering ----

Rendering::Rendering(const RenderOptions& render_options)
    : budget{.max_steps = render_options.max_steps,
             .max_bytes = render_options.max_bytes,
             .max_output = render_options.max_output},
      options(render_options) {}

Rendering::~Rendering() {
  // Namespaces and scopes may refer to each other.
  for (const auto& space : namespaces) space->attributes.clear();
  for (const auto& scope : captured_scopes) scope->variables.clear();
}

absl::StatusOr<Value> Rendering::Text(std::string text) {
  LONGSPAN_RETURN_IF_ERROR(budget.StepBytes(text.size()));
  LONGSPAN_RETURN_IF_ERROR(budget.Room(static_cast<double>(text.size())));
  return MakeString(std::move(text), &budget);
}

Namespace* Rendering::NewNamespace() {
  namespaces.push_back(std::make_unique<Namespace>());
  budget.bytes += sizeof(Namespace) + 64;
  return namespaces.back().get();
}

// ---- Loops ----

absl::StatusOr<std::shared_ptr<Loop>> Loop::Start(Value source, Filter filter, int depth0,
                                                  Budget& budget) {
  auto loop = std::make_shared<Loop>();
  loop->value_depth = Depth(source) + 1;
  loop->depth0 = depth0;
  loop->source = std::move(source);
  loop->filter = std::move(filter);
  if (const Sequence* sequence = As<Sequence>(loop->source)) {
    loop->items_ = &sequence->items;
  } else if (!std::holds_alternative<std::shared_ptr<Iterator>>(loop->source)) {
    LONGSPAN_ASSIGN_OR_RETURN(loop->own_items_, Items(loop->source, budget));
    loop->items_ = &loop->own_items_;
  }
  if (loop->items_ != nullptr && !loop->filter) loop->length_ = loop->items_->size();
  return loop;
}

absl::StatusOr<bool> Loop::Fetch(Value* item) {
  while (true) {
    if (items_ != nullptr) {
      if (next_ == items_->size()) return false;
      *item = (*items_)[next_++];
    } else {
      Iterator& iterator = *std::get<std::shared_ptr<Iterator>>(source);
      if (iterator.next == iterator.items.size()) {
        if (!iterator.error.ok()) return iterator.error;
        return false;
      }
      *item = iterator.items[iterator.next++];
    }
    if (!filter) return true;
    if (filtering_) return Fault("generator already executing");
    filtering_ = true;
    const absl::StatusOr<bool> wanted = filter(*item);
    filtering_ = false;
    if (!wanted.ok() || *wanted) return wanted;
  }
}

absl::StatusOr<bool> Loop::Peek() {
  if (ahead_) return true;
  Value item = Missing{};
  LONGSPAN_ASSIGN_OR_RETURN(const bool any, Fetch(&item));
  if (any) ahead_ = std::move(item);
  return any;
}

absl::StatusOr<bool> Loop::Advance() {
  LONGSPAN_ASSIGN_OR_RETURN(const bool any, Peek());
  if (!any) return false;
  ++index0;
  previous = std::exchange(current, *std::exchange(ahead_, std::nullopt));
  return true;
}

absl::StatusOr<bool> Loop::IsLast() {
  LONGSPAN_ASSIGN_OR_RETURN(const bool more, Peek());
  return !more;
}

absl::StatusOr<Value> Loop::NextItem() {
  LONGSPAN_ASSIGN_OR_RETURN(const bool more, Peek());
  return more ? *ahead_ : MakeUndefined("there is no next item");
}

absl::StatusOr<int64_t> Loop::Length() {
  if (length_) return *length_;
  Values rest;
  while (true) {
    Value item = Missing{};
    LONGSPAN_ASSIGN_OR_RETURN(const bool any, Fetch(&item));
    if (!any) break;
    rest.push_back(std::move(item));
  }
  own_items_ = std::move(rest);
  items_ = &own_items_;
  next_ = 0;
  filter = nullptr;
  length_ = static_cast<int64_t>(own_items_.size()) + index0 + 1 + (ahead_ ? 1 : 0);
  return *length_;
}

// ---- Evaluation ----

namespace {

// Of the recursion over statements, expressions and macros together.
constexpr int kMaxDepth = 600;

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(Rendering& rendering, Scope* scope) : rendering_(rendering), scope_(scope) {}

  absl::StatusOr<Flow> Execute(const Body& body);
  std::string TakeOutput() { return std::move(*out_); }

 private:
  using ValueOr = absl::StatusOr<Value>;

  // Bounds the recursion.
  class Nested {
   public:
    explicit Nested(int& depth) : depth_(depth) { ++depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    ~Nested() { --depth_; }

   private:
    int& depth_;
  };
  // The variables of a block, until its end.
  class Block {
   public:
    Block(Evaluator& evaluator, Scope* parent)
        : evaluator_(evaluator),
          outer_(evaluator.scope_),
          scope_(std::make_unique<Scope>(Scope{parent})) {
      evaluator.scope_ = scope_.get();
    }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block() {
      evaluator_.scope_ = outer_;
      if (!scope_->captured) return;
      size_t bytes = sizeof(Scope) + 256;  // and its table
      for (const auto& [name, value] : scope_->variables) {
        bytes += 2 * (sizeof(name) + sizeof(value)) + name.size();
      }
      evaluator_.budget().bytes += static_cast<int64_t>(bytes);
      evaluator_.rendering_.captured_scopes.push_back(std::move(scope_));
    }

   private:
    Evaluator& evaluator_;
    Scope* outer_;
    std::unique_ptr<Scope> scope_;
  };

  Budget& budget() { return rendering_.budget; }
  absl::Status Located(absl::Status status, int line);

  // ---- Expressions ----
  ValueOr Evaluate(const Expr& expr);
  ValueOr EvaluateOnly(const Expr& expr);
  ValueOr EvaluateName(const Expr& expr);
  absl::StatusOr<Values> EvaluateAll(const std::vector<ExprPtr>& list);
  ValueOr EvaluateDict(const Expr& expr);
  ValueOr EvaluateItem(const Expr& expr);
  ValueOr EvaluateCall(const Expr& expr);
  ValueOr EvaluateFilter(const Expr& expr, const Value* block);
  ValueOr EvaluateConcat(const Expr& expr);
  ValueOr EvaluateCompare(const Expr& expr);
  absl::StatusOr<bool> Compare(std::string_view op, const Value& a, const Value& b);
  absl::StatusOr<CallArguments> EvaluateArguments(const Arguments& arguments);
  ValueOr Call(const Value& callee, CallArguments arguments);
  ValueOr CallMacro(const Macro& macro, CallArguments arguments);
  absl::Status BindParameters(const Statement& macro, CallArguments& arguments);
  absl::StatusOr<Flow> Capture(const Body& body, Value* printed);

  // ---- Statements ----
  absl::StatusOr<Flow> ExecuteOne(const Statement& statement);
  absl::Status Print(const Statement& statement);
  absl::StatusOr<Flow> ExecuteIf(const Statement& statement);
  absl::StatusOr<Flow> ExecuteFor(const Statement& statement);
  absl::StatusOr<Flow> ExecuteIteration(const Statement& statement,
                                        const std::shared_ptr<Loop>& loop, Scope* outer);
  absl::StatusOr<Flow> ExecuteSetBlock(const Statement& statement);
  absl::StatusOr<Flow> ExecuteFilterBlock(const Statement& statement);
  absl::StatusOr<Flow> ExecuteWith(const Statement& statement);
  absl::Status DefineMacro(const Statement& statement);
  absl::Status Assign(const Target& target, const Value& value);
  absl::Status CheckNamespaces(const Target& target);
  absl::Status SetAttribute(const Target& target, const Value& value);
  absl::Status Write(std::string_view text);

  const Value* Lookup(const std::string& name) const;

  Rendering& rendering_;
  Scope* scope_;
  std::string output_;
  std::string* out_ = &output_;
  int depth_ = 0;
  int macro_depth_ = 0;
};

// Says once where an error comes from.
absl::Status Evaluator::Located(absl::Status status, int line) {
  if (std::exchange(rendering_.error_located, true)) return status;
  return absl::Status(status.code(), StrCat("chat template line ", line, ": ", status.message()));
}

const Value* Evaluator::Lookup(const std::string& name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    const auto it = scope->variables.find(name);
    if (it != scope->variables.end()) return &it->second;
  }
  return nullptr;
}

// ---- Expressions ----

absl::StatusOr<Value> Evaluator::Evaluate(const Expr& expr) {
  const Nested nested(depth_);
  absl::Status status = budget().Step();
  if (depth_ > kMaxDepth) {
    status = absl::ResourceExhaustedError(
        StrCat("the chat template nests deeper than ", kMaxDepth, " levels"));
  }
  if (!status.ok()) return Located(std::move(status), expr.line);
  ValueOr value = EvaluateOnly(expr);
  if (!value.ok()) return Located(value.status(), expr.line);
  return value;
}

absl::StatusOr<Value> Evaluator::EvaluateOnly(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.constant;
    case ExprKind::kName:
      return EvaluateName(expr);
    case ExprKind::kList:
    case ExprKind::kTuple: {
      LONGSPAN_ASSIGN_OR_RETURN(Values items, EvaluateAll(expr.children));
      return expr.kind == ExprKind::kList ? rendering_.List(std::move(items))
                                          : rendering_.Tuple(std::move(items));
    }
    case ExprKind::kDict:
      return EvaluateDict(expr);
    case ExprKind::kAttribute: {
      LONGSPAN_ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.children[0]));
      return GetAttribute(rendering_, object, expr.name);
    }
    case ExprKind::kItem:
      return EvaluateItem(expr);
    case ExprKind::kSlice:
      return Unsupported("a slice is supported only as the whole subscript");
    case ExprKind::kCall:
      return EvaluateCall(expr);
    case ExprKind::kFilter:
    case ExprKind::kTest:
      return EvaluateFilter(expr, nullptr);
    case ExprKind::kConcat:
      return EvaluateConcat(expr);
    case ExprKind::kCompare:
      return EvaluateCompare(expr);
    default:
      break;
  }
  LONGSPAN_ASSIGN_OR_RETURN(Value first,
                            Evaluate(*expr.children[expr.kind == ExprKind::kConditional ? 1 : 0]));
  switch (expr.kind) {
    case ExprKind::kNot:
      return !IsTrue(first);
    case ExprKind::kNegative:
      return Negate(first);
    case ExprKind::kPositive:
      return Plus(first);
    case ExprKind::kAnd:
      return IsTrue(first) ? Evaluate(*expr.children[1]) : first;
    case ExprKind::kOr:
      return IsTrue(first) ? first : Evaluate(*expr.children[1]);
    case ExprKind::kConditional:
      if (IsTrue(first)) return Evaluate(*expr.children[0]);
      if (expr.children[2] != nullptr) return Evaluate(*expr.children[2]);
      return MakeUndefined(StrCat("the inline if-expression on line ", expr.line,
                                  " evaluated to false and no else section was defined."));
    default: {
      LONGSPAN_ASSIGN_OR_RETURN(const Value second, Evaluate(*expr.children[1]));
      return BinaryOperation(rendering_, expr.name, first, second);
    }
  }
}

absl::StatusOr<Value> Evaluator::EvaluateName(const Expr& expr) {
  if (const Value* value = Lookup(expr.name)) return *value;
  if (const Builtin* function = FindFunction(expr.name)) return function;
  return MakeUndefined(StrCat("'", expr.name, "' is undefined"));
}

absl::StatusOr<Values> Evaluator::EvaluateAll(const std::vector<ExprPtr>& list) {
  Values values;
  for (const ExprPtr& expr : list) {
    LONGSPAN_ASSIGN_OR_RETURN(Value value, Evaluate(*expr));
    values.push_back(std::move(value));
  }
  return values;
}

absl::StatusOr<Value> Evaluator::EvaluateDict(const Expr& expr) {
  DictBuilder dict(&budget());
  for (size_t i = 0; i < expr.children.size(); i += 2) {
    LONGSPAN_ASSIGN_OR_RETURN(Value key, Evaluate(*expr.children[i]));
    LONGSPAN_ASSIGN_OR_RETURN(Value value, Evaluate(*expr.children[i + 1]));
    LONGSPAN_RETURN_IF_ERROR(dict.Set(std::move(key), std::move(value)));
  }
  return dict.Finish();
}

absl::StatusOr<Value> Evaluator::EvaluateItem(const Expr& expr) {
  LONGSPAN_ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.children[0]));
  const Expr& key = *expr.children[1];
  if (key.kind != ExprKind::kSlice) {
    LONGSPAN_ASSIGN_OR_RETURN(const Value index, Evaluate(key));
    return GetItem(rendering_, object, index);
  }
  Value bounds[3];
  for (int i = 0; i < 3; ++i) {
    if (key.children[i] == nullptr) continue;
    LONGSPAN_ASSIGN_OR_RETURN(bounds[i], Evaluate(*key.children[i]));
  }
  return Slice(rendering_, object, bounds[0], bounds[1], bounds[2]);
}

absl::StatusOr<CallArguments> Evaluator::EvaluateArguments(const Arguments& arguments) {
  CallArguments out;
  LONGSPAN_ASSIGN_OR_RETURN(out.positional, EvaluateAll(arguments.positional));
  if (arguments.positional_list != nullptr) {
    LONGSPAN_ASSIGN_OR_RETURN(const Value list, Evaluate(*arguments.positional_list));
    LONGSPAN_ASSIGN_OR_RETURN(const Values more, Items(list, budget()));
    out.positional.insert(out.positional.end(), more.begin(), more.end());
  }
  for (const auto& [name, expr] : arguments.named) {
    LONGSPAN_ASSIGN_OR_RETURN(Value value, Evaluate(*expr));
    out.named.emplace_back(name, std::move(value));
  }
  if (arguments.named_dict == nullptr) return out;
  LONGSPAN_ASSIGN_OR_RETURN(const Value value, Evaluate(*arguments.named_dict));
  const Dict* const dict = As<Dict>(value);
  if (dict == nullptr) return Fault("argument after ** must be a mapping");
  size_t copied = 0;
  for (const auto& [key, item] : dict->items) {
    const String* const name = As<String>(key);
    if (name == nullptr) return Fault("keywords must be strings");
    copied += name->text.size();
    LONGSPAN_RETURN_IF_ERROR(budget().Step(1 + static_cast<int64_t>(arguments.named.size() / 4)));
    LONGSPAN_RETURN_IF_ERROR(budget().StepBytes(name->text.size()));
    LONGSPAN_RETURN_IF_ERROR(budget().Room(static_cast<double>(copied)));
    for (const auto& [known, unused] : arguments.named) {
      if (known == name->text) return Fault("got multiple values for argument '", known, "'");
    }
    out.named.emplace_back(name->text, item);
  }
  return out;
}

absl::StatusOr<Value> Evaluator::EvaluateCall(const Expr& expr) {
  LONGSPAN_ASSIGN_OR_RETURN(const Value callee, Evaluate(*expr.children[0]));
  LONGSPAN_ASSIGN_OR_RETURN(CallArguments arguments, EvaluateArguments(expr.arguments));
  return Call(callee, std::move(arguments));
}

absl::StatusOr<Value> Evaluator::Call(const Value& callee, CallArguments arguments) {
  if (const Method* method = As<Method>(callee)) {
    return CallBuiltin(rendering_, *method->builtin, method->self, arguments);
  }
  if (const auto* function = std::get_if<const Builtin*>(&callee)) {
    return CallBuiltin(rendering_, **function, Missing{}, arguments);
  }
  if (const auto* macro = std::get_if<const Macro*>(&callee)) {
    return CallMacro(**macro, std::move(arguments));
  }
  if (IsUndefined(callee)) return UndefinedError(callee);
  return Fault("'", TypeName(callee), "' object is not callable");
}

// `block`: what a filter without input is applied to.
absl::StatusOr<Value> Evaluator::EvaluateFilter(const Expr& expr, const Value* block) {
  Value input = block != nullptr ? *block : Value(Missing{});
  if (expr.children[0] != nullptr) {
    const Expr& child = *expr.children[0];
    LONGSPAN_ASSIGN_OR_RETURN(input, block != nullptr && child.kind == ExprKind::kFilter
                                         ? EvaluateFilter(child, block)
                                         : Evaluate(child));
  }
  LONGSPAN_ASSIGN_OR_RETURN(const CallArguments arguments, EvaluateArguments(expr.arguments));
  return CallBuiltin(rendering_, *expr.builtin, input, arguments);
}

absl::StatusOr<Value> Evaluator::EvaluateConcat(const Expr& expr) {
  LONGSPAN_ASSIGN_OR_RETURN(const Values parts, EvaluateAll(expr.children));
  std::string text;
  for (const Value& part : parts) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::string piece, ToText(part, budget()));
    text += piece;
    LONGSPAN_RETURN_IF_ERROR(budget().Room(static_cast<double>(text.size())));
  }
  return rendering_.Text(std::move(text));
}

absl::StatusOr<bool> Evaluator::Compare(std::string_view op, const Value& a, const Value& b) {
  if (op == "==") return Equal(a, b, budget());
  if (op == "<") return Less(a, b, budget());
  if (op == ">") return Less(b, a, budget());
  if (op == "in") return Contains(b, a, budget());
  if (op == "not in" || op == "!=") {
    LONGSPAN_ASSIGN_OR_RETURN(const bool is,
                              op == "!=" ? Equal(a, b, budget()) : Contains(b, a, budget()));
    return !is;
  }
  LONGSPAN_ASSIGN_OR_RETURN(const bool less,
                            op == "<=" ? Less(a, b, budget()) : Less(b, a, budget()));
  return less ? true : Equal(a, b, budget());
}

absl::StatusOr<Value> Evaluator::EvaluateCompare(const Expr& expr) {
  LONGSPAN_ASSIGN_OR_RETURN(Value left, Evaluate(*expr.children[0]));
  for (size_t i = 0; i < expr.names.size(); ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(Value right, Evaluate(*expr.children[i + 1]));
    LONGSPAN_ASSIGN_OR_RETURN(const bool holds, Compare(expr.names[i], left, right));
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

// ---- Macros ----

absl::Status Evaluator::BindParameters(const Statement& macro, CallArguments& arguments) {
  auto& variables = scope_->variables;
  const size_t given = arguments.positional.size();
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    Value& value = variables[parameter.name];
    value = i < given ? arguments.positional[i] : Value(Missing{});
    if (i < given) continue;
    LONGSPAN_RETURN_IF_ERROR(budget().Step(1 + static_cast<int64_t>(arguments.named.size() / 4)));
    for (auto it = arguments.named.begin(); it != arguments.named.end(); ++it) {
      if (it->first != parameter.name) continue;
      value = std::move(it->second);
      arguments.named.erase(it);
      break;
    }
  }
  for (const Parameter& parameter : macro.parameters) {
    if (!IsMissing(variables[parameter.name])) continue;
    Value value = MakeUndefined(StrCat("parameter '", parameter.name, "' was not provided"));
    variables[parameter.name] = value;
    if (parameter.default_value != nullptr) {
      LONGSPAN_ASSIGN_OR_RETURN(value, Evaluate(*parameter.default_value));
    }
    variables[parameter.name] = std::move(value);
  }
  if (macro.catches_named) {
    DictBuilder rest(&budget());
    for (auto& [name, value] : arguments.named) {
      LONGSPAN_RETURN_IF_ERROR(rest.SetText(name, value));
    }
    LONGSPAN_ASSIGN_OR_RETURN(variables["kwargs"], rest.Finish());
  } else if (!arguments.named.empty()) {
    return Fault("macro '", macro.text, "' takes no keyword argument '", arguments.named[0].first,
                 "'");
  }
  const size_t taken = std::min(given, macro.parameters.size());
  if (macro.catches_positional) {
    LONGSPAN_ASSIGN_OR_RETURN(
        variables["varargs"],
        rendering_.Tuple({arguments.positional.begin() + taken, arguments.positional.end()}));
  } else if (given > taken) {
    return Fault("macro '", macro.text, "' takes not more than ", macro.parameters.size(),
                 " argument(s)");
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Evaluator::CallMacro(const Macro& macro, CallArguments arguments) {
  const Nested nested(macro_depth_);
  if (macro_depth_ > rendering_.options.max_macro_depth) {
    return absl::ResourceExhaustedError(
        StrCat("macros of the chat template call each other deeper than ",
               rendering_.options.max_macro_depth, " levels"));
  }
  const Block block(*this, macro.scope);
  LONGSPAN_RETURN_IF_ERROR(BindParameters(*macro.definition, arguments));
  Value printed;
  LONGSPAN_RETURN_IF_ERROR(Capture(macro.definition->bodies[0], &printed).status());
  return printed;
}

// Executes a body; what it prints becomes a value.
absl::StatusOr<Flow> Evaluator::Capture(const Body& body, Value* printed) {
  std::string text;
  std::string* const outer = std::exchange(out_, &text);
  const absl::StatusOr<Flow> flow = Execute(body);
  out_ = outer;
  budget().bytes -= static_cast<int64_t>(text.size());
  if (!flow.ok()) return flow;
  LONGSPAN_ASSIGN_OR_RETURN(*printed, rendering_.Text(std::move(text)));
  return flow;
}

// ---- Statements ----

absl::Status Evaluator::Write(std::string_view text) {
  if (static_cast<int64_t>(out_->size() + text.size()) > budget().max_output) {
    return absl::ResourceExhaustedError(
        StrCat("the chat template prints more than ", budget().max_output, " bytes"));
  }
  budget().bytes += static_cast<int64_t>(text.size());
  out_->append(text);
  return budget().StepBytes(text.size());
}

absl::StatusOr<Flow> Evaluator::Execute(const Body& body) {
  for (const auto& statement : body) {
    const Nested nested(depth_);
    absl::StatusOr<Flow> flow = depth_ > kMaxDepth
                                    ? absl::ResourceExhaustedError(
                                          StrCat("the chat template nests deeper than ", kMaxDepth))
                                    : ExecuteOne(*statement);
    if (!flow.ok()) return Located(flow.status(), statement->line);
    if (*flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Flow> Evaluator::ExecuteOne(const Statement& statement) {
  LONGSPAN_RETURN_IF_ERROR(budget().Step());
  switch (statement.kind) {
    case StatementKind::kData:
      LONGSPAN_RETURN_IF_ERROR(Write(statement.text));
      return Flow::kNext;
    case StatementKind::kPrint:
      LONGSPAN_RETURN_IF_ERROR(Print(statement));
      return Flow::kNext;
    case StatementKind::kIf:
      return ExecuteIf(statement);
    case StatementKind::kFor:
      return ExecuteFor(statement);
    case StatementKind::kSet: {
      LONGSPAN_RETURN_IF_ERROR(CheckNamespaces(statement.targets[0]));
      LONGSPAN_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expressions[0]));
      LONGSPAN_RETURN_IF_ERROR(Assign(statement.targets[0], value));
      return Flow::kNext;
    }
    case StatementKind::kSetBlock:
      return ExecuteSetBlock(statement);
    case StatementKind::kFilter:
      return ExecuteFilterBlock(statement);
    case StatementKind::kWith:
      return ExecuteWith(statement);
    case StatementKind::kMacro:
      LONGSPAN_RETURN_IF_ERROR(DefineMacro(statement));
      return Flow::kNext;
    case StatementKind::kGeneration: {
      const Block block(*this, scope_);
      return Execute(statement.bodies[0]);
    }
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::Status Evaluator::Print(const Statement& statement) {
  for (const ExprPtr& expr : statement.expressions) {
    LONGSPAN_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr));
    if (const String* text = As<String>(value)) {
      LONGSPAN_RETURN_IF_ERROR(Write(text->text));
      continue;
    }
    LONGSPAN_ASSIGN_OR_RETURN(const std::string text, ToText(value, budget()));
    LONGSPAN_RETURN_IF_ERROR(Write(text));
  }
  return absl::OkStatus();
}

absl::StatusOr<Flow> Evaluator::ExecuteIf(const Statement& statement) {
  for (size_t i = 0; i < statement.expressions.size(); ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(const Value condition, Evaluate(*statement.expressions[i]));
    if (IsTrue(condition)) return Execute(statement.bodies[i]);
  }
  if (statement.bodies.size() == statement.expressions.size()) return Flow::kNext;
  return Execute(statement.bodies.back());
}

absl::StatusOr<Flow> Evaluator::ExecuteIteration(const Statement& statement,
                                                 const std::shared_ptr<Loop>& loop, Scope* outer) {
  const Block block(*this, outer);
  scope_->variables["loop"] = loop;
  LONGSPAN_RETURN_IF_ERROR(Assign(statement.targets[0], loop->current));
  return Execute(statement.bodies[0]);
}

absl::StatusOr<Flow> Evaluator::ExecuteFor(const Statement& statement) {
  LONGSPAN_ASSIGN_OR_RETURN(Value source, Evaluate(*statement.expressions[0]));
  Scope* const outer = scope_;
  Loop::Filter filter;
  if (statement.expressions[1] != nullptr) {
    filter = [this, &statement, outer](const Value& item) -> absl::StatusOr<bool> {
      const Block block(*this, outer);
      LONGSPAN_RETURN_IF_ERROR(Assign(statement.targets[0], item));
      LONGSPAN_ASSIGN_OR_RETURN(const Value wanted, Evaluate(*statement.expressions[1]));
      return IsTrue(wanted);
    };
  }
  LONGSPAN_ASSIGN_OR_RETURN(const std::shared_ptr<Loop> loop,
                            Loop::Start(std::move(source), std::move(filter), 0, budget()));
  // As in jinja2, an iteration that `break` or `continue` ends does not count.
  bool any_completed = false;
  absl::Status status;
  while (true) {
    const absl::StatusOr<bool> more = loop->Advance();
    if (!more.ok() || !*more) {
      status = more.status();
      break;
    }
    const absl::StatusOr<Flow> flow = ExecuteIteration(statement, loop, outer);
    if (!flow.ok() || *flow == Flow::kBreak) {
      status = flow.status();
      break;
    }
    any_completed = any_completed || *flow == Flow::kNext;
  }
  loop->filter = nullptr;  // it refers to this loop's variables, and `loop` may have been kept
  LONGSPAN_RETURN_IF_ERROR(status);
  if (any_completed || statement.bodies.size() < 2) return Flow::kNext;
  const Block block(*this, outer);
  return Execute(statement.bodies[1]);
}

absl::StatusOr<Flow> Evaluator::ExecuteSetBlock(const Statement& statement) {
  Value value;
  {
    const Block block(*this, scope_);
    LONGSPAN_ASSIGN_OR_RETURN(const Flow flow, Capture(statement.bodies[0], &value));
    if (flow != Flow::kNext) return flow;
    if (statement.expressions[0] != nullptr) {
      LONGSPAN_ASSIGN_OR_RETURN(value, EvaluateFilter(*statement.expressions[0], &value));
    }
  }
  LONGSPAN_RETURN_IF_ERROR(CheckNamespaces(statement.targets[0]));
  LONGSPAN_RETURN_IF_ERROR(Assign(statement.targets[0], value));
  return Flow::kNext;
}

absl::StatusOr<Flow> Evaluator::ExecuteFilterBlock(const Statement& statement) {
  const Block block(*this, scope_);
  Value input;
  LONGSPAN_ASSIGN_OR_RETURN(const Flow flow, Capture(statement.bodies[0], &input));
  if (flow != Flow::kNext) return flow;
  LONGSPAN_ASSIGN_OR_RETURN(const Value value, EvaluateFilter(*statement.expressions[0], &input));
  LONGSPAN_ASSIGN_OR_RETURN(const std::string filtered, ToText(value, budget()));
  LONGSPAN_RETURN_IF_ERROR(Write(filtered));
  return Flow::kNext;
}

absl::StatusOr<Flow> Evaluator::ExecuteWith(const Statement& statement) {
  LONGSPAN_ASSIGN_OR_RETURN(const Values values, EvaluateAll(statement.expressions));
  const Block block(*this, scope_);
  for (size_t i = 0; i < values.size(); ++i) {
    LONGSPAN_RETURN_IF_ERROR(Assign(statement.targets[i], values[i]));
  }
  return Execute(statement.bodies[0]);
}

absl::Status Evaluator::DefineMacro(const Statement& statement) {
  rendering_.macros.push_back(std::make_unique<Macro>(Macro{&statement, scope_}));
  budget().bytes += static_cast<int64_t>(sizeof(Macro) + 64);
  for (Scope* scope = scope_; scope != nullptr && !scope->captured; scope = scope->parent) {
    scope->captured = true;
  }
  scope_->variables[statement.text] = static_cast<const Macro*>(rendering_.macros.back().get());
  return absl::OkStatus();
}

// ---- Assignment ----

absl::Status Evaluator::CheckNamespaces(const Target& target) {
  for (const Target& element : target.elements) {
    LONGSPAN_RETURN_IF_ERROR(CheckNamespaces(element));
  }
  if (target.attribute.empty()) return absl::OkStatus();
  const Value* const object = Lookup(target.name);
  if (object == nullptr || !std::holds_alternative<Namespace*>(*object)) {
    return Fault("cannot assign attribute on non-namespace object");
  }
  return absl::OkStatus();
}

absl::Status Evaluator::SetAttribute(const Target& target, const Value& value) {
  if (target.attribute[0] == '_') {
    return Fault(
        "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '",
        target.attribute, "'. Please rename the attribute.");
  }
  // A tuple before it may have assigned another value to the name.
  LONGSPAN_RETURN_IF_ERROR(CheckNamespaces(target));
  Namespace& space = *std::get<Namespace*>(*Lookup(target.name));
  LONGSPAN_RETURN_IF_ERROR(budget().StepBytes(space.attributes.size()));
  for (auto& [name, known] : space.attributes) {
    if (name == target.attribute) return known = value, absl::OkStatus();
  }
  space.attributes.emplace_back(target.attribute, value);
  budget().bytes += static_cast<int64_t>(sizeof(Value) + target.attribute.size());
  return absl::OkStatus();
}

absl::Status Evaluator::Assign(const Target& target, const Value& value) {
  if (target.elements.empty()) {
    if (!target.attribute.empty()) return SetAttribute(target, value);
    scope_->variables[target.name] = value;
    return absl::OkStatus();
  }
  const size_t wanted = target.elements.size();
  LONGSPAN_ASSIGN_OR_RETURN(const Values items, Items(value, budget()));
  if (items.size() != wanted) {
    return Fault(items.size() < wanted ? "not enough" : "too many", " values to unpack (expected ",
                 wanted, ", got ", items.size(), ")");
  }
  for (size_t i = 0; i < wanted; ++i) {
    LONGSPAN_RETURN_IF_ERROR(Assign(target.elements[i], items[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> Render(const Body& body, const nlohmann::ordered_json& variables,
                                   const RenderOptions& options) {
  Rendering rendering(options);
  Scope scope;
  for (const auto& item : variables.items()) {
    LONGSPAN_ASSIGN_OR_RETURN(scope.variables[item.key()],
                              FromJson(item.value(), &rendering.budget));
  }
  Evaluator evaluator(rendering, &scope);
  LONGSPAN_RETURN_IF_ERROR(evaluator.Execute(body).status());
  return evaluator.TakeOutput();
}

}  // namespace longspan::jinja
