#include "runtime/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "kernels/base/status_macros.h"
#include "runtime/jinja/builtins.h"
#include "runtime/jinja/lexer.h"
#include "runtime/tokenizer_utf8.h"

namespace longspan::jinja {
namespace {

using ExprOr = absl::StatusOr<ExprPtr>;
using StatementOr = absl::StatusOr<std::unique_ptr<Statement>>;
using Names = std::initializer_list<std::string_view>;

std::string Describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "end of template";
    case TokenKind::kData:
      return "template data / text";
    case TokenKind::kVariableBegin:
      return "begin of print statement";
    case TokenKind::kVariableEnd:
      return "end of print statement";
    case TokenKind::kBlockBegin:
      return "begin of statement block";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kString:
      return "string";
    default:
      return token.text;
  }
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // Statements until a tag with one of these names, which becomes the current token.
  absl::StatusOr<Body> ParseBody(Names ends);

 private:
  // Bounds the recursion of the parser itself.
  class Nested {
   public:
    explicit Nested(Parser& parser) : parser_(parser) { ++parser_.depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    ~Nested() { --parser_.depth_; }
    absl::Status Check() const {
      return parser_.depth_ <= kMaxParseDepth ? absl::OkStatus() : parser_.TooDeep();
    }

   private:
    Parser& parser_;
  };

  // ---- Tokens ----
  const Token& Current() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Skip() { at_ = std::min(at_ + 1, tokens_.size() - 1); }
  static bool Is(const Token& token, TokenKind kind, std::string_view text) {
    return token.kind == kind && token.text == text;
  }
  bool IsOperator(std::string_view text) const { return Is(Current(), TokenKind::kOperator, text); }
  bool IsName(std::string_view text) const { return Is(Current(), TokenKind::kName, text); }
  bool IsOneOf(Names names) const {
    return Current().kind == TokenKind::kName &&
           std::find(names.begin(), names.end(), Current().text) != names.end();
  }
  bool SkipOperator(std::string_view text) { return IsOperator(text) ? Skip(), true : false; }
  bool SkipName(std::string_view text) { return IsName(text) ? Skip(), true : false; }
  absl::Status Error(std::string_view message) const {
    return SyntaxError(Current().line, message);
  }
  absl::Status Refuse(int line, std::string_view what) const {
    return Unsupported("chat template line ", line, ": ", what);
  }
  absl::Status TooDeep() const {
    return absl::ResourceExhaustedError(StrCat("chat template line ", Current().line,
                                               ": nested deeper than ", kMaxParseDepth, " levels"));
  }
  absl::Status Expect(TokenKind kind, std::string_view what);
  absl::Status ExpectOperator(std::string_view text);
  absl::StatusOr<std::string> ExpectName();

  // ---- Expressions, by falling precedence of what they parse ----
  ExprOr Make(ExprKind kind, int line, std::vector<ExprPtr> children, std::string name = "");
  ExprOr ParseTupleOrOne(bool conditional, Names ends = {}, bool in_parentheses = false);
  ExprOr ParseExpression(bool conditional = true);
  ExprOr ParseOr();
  ExprOr ParseAnd();
  ExprOr ParseLogical(std::string_view name, ExprKind kind, ExprOr (Parser::*operand)());
  ExprOr ParseNot();
  ExprOr ParseCompare();
  absl::StatusOr<std::string> ParseCompareOperator();
  ExprOr ParseBinary(Names operators, ExprOr (Parser::*operand)());
  ExprOr ParseSum();
  ExprOr ParseConcat();
  ExprOr ParseProduct();
  ExprOr ParsePower();
  ExprOr ParseUnary();
  ExprOr ParseSigned(bool with_filters);
  ExprOr ParsePrimary();
  ExprOr ParseNamed();
  ExprOr ParseStrings();
  ExprOr ParseList();
  ExprOr ParseDict();
  ExprOr ParsePostfix(ExprPtr expr);
  ExprOr ParseFilters(ExprPtr expr);
  ExprOr ParseSubscript(ExprPtr object);
  ExprOr ParseSubscriptItem();
  ExprOr ParseCall(ExprPtr callee);
  ExprOr ParseFilter(ExprPtr input);
  ExprOr ParseTest(ExprPtr value);
  absl::Status ParseArguments(Expr& expr);
  absl::Status ParseArgument(Arguments& arguments);
  absl::StatusOr<std::string> ParseDottedName();

  // ---- Statements ----
  StatementOr ParseStatement();
  StatementOr ParsePrintTag();
  StatementOr ParseIf();
  StatementOr ParseFor();
  StatementOr ParseSet();
  StatementOr ParseWith();
  StatementOr ParseFilterBlock();
  StatementOr ParseMacro();
  StatementOr ParseGeneration();
  StatementOr ParseLoopControl();
  StatementOr ParseUnsupported();
  absl::Status ParseParameters(Statement& macro);
  absl::StatusOr<Body> ParseBlock(Names ends, bool skip_end);
  absl::StatusOr<Target> ParseTarget(bool attributes, Names ends);
  absl::StatusOr<Target> ParseOneTarget(bool attributes);

  using StatementParser = StatementOr (Parser::*)();
  static const std::pair<std::string_view, StatementParser> kStatements[];

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;               // around the current statement, within the same macro
  Statement* macro_ = nullptr;  // around the current expression
};

std::unique_ptr<Statement> NewStatement(StatementKind kind, int line) {
  auto statement = std::make_unique<Statement>();
  statement->kind = kind;
  statement->line = line;
  return statement;
}

// ---- Tokens ----

absl::Status Parser::Expect(TokenKind kind, std::string_view what) {
  if (Current().kind == kind) return Skip(), absl::OkStatus();
  return Error(StrCat("expected token '", what, "', got '", Describe(Current()), "'"));
}

absl::Status Parser::ExpectOperator(std::string_view text) {
  if (SkipOperator(text)) return absl::OkStatus();
  return Error(StrCat("expected token '", text, "', got '", Describe(Current()), "'"));
}

absl::StatusOr<std::string> Parser::ExpectName() {
  std::string name = Current().text;
  LONGSPAN_RETURN_IF_ERROR(Expect(TokenKind::kName, "name"));
  return name;
}

// ---- Expressions ----

ExprOr Parser::Make(ExprKind kind, int line, std::vector<ExprPtr> children, std::string name) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  expr->name = std::move(name);
  for (const ExprPtr& child : children) {
    if (child != nullptr) expr->depth = std::max(expr->depth, child->depth + 1);
  }
  expr->children = std::move(children);
  if (expr->depth > kMaxParseDepth) return TooDeep();
  return expr;
}

template <typename... Ptrs>
std::vector<ExprPtr> Children(Ptrs... children) {
  std::vector<ExprPtr> list;
  (list.push_back(std::move(children)), ...);
  return list;
}

ExprOr Parser::ParseTupleOrOne(bool conditional, Names ends, bool in_parentheses) {
  const int line = Current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    const TokenKind kind = Current().kind;
    if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || IsOperator(")") ||
        IsOneOf(ends)) {
      break;
    }
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression(conditional));
    items.push_back(std::move(item));
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !in_parentheses) {
    return Error(StrCat("expected an expression, got '", Describe(Current()), "'"));
  }
  return Make(ExprKind::kTuple, line, std::move(items));
}

ExprOr Parser::ParseExpression(bool conditional) {
  const Nested nested(*this);
  LONGSPAN_RETURN_IF_ERROR(nested.Check());
  const int line = Current().line;
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr expr, ParseOr());
  while (conditional && SkipName("if")) {
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr other;
    if (SkipName("else")) {
      LONGSPAN_ASSIGN_OR_RETURN(other, ParseExpression());
    }
    LONGSPAN_ASSIGN_OR_RETURN(
        expr, Make(ExprKind::kConditional, line,
                   Children(std::move(expr), std::move(condition), std::move(other))));
  }
  return expr;
}

ExprOr Parser::ParseOr() { return ParseLogical("or", ExprKind::kOr, &Parser::ParseAnd); }

ExprOr Parser::ParseAnd() { return ParseLogical("and", ExprKind::kAnd, &Parser::ParseNot); }

ExprOr Parser::ParseLogical(std::string_view name, ExprKind kind, ExprOr (Parser::*operand)()) {
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  while (IsName(name)) {
    const int line = Current().line;
    Skip();
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    LONGSPAN_ASSIGN_OR_RETURN(left, Make(kind, line, Children(std::move(left), std::move(right))));
  }
  return left;
}

ExprOr Parser::ParseNot() {
  if (!IsName("not")) return ParseCompare();
  const Nested nested(*this);
  LONGSPAN_RETURN_IF_ERROR(nested.Check());
  const int line = Current().line;
  Skip();
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  return Make(ExprKind::kNot, line, Children(std::move(operand)));
}

// Skips a comparison's operator and names it; "" if there is none.
absl::StatusOr<std::string> Parser::ParseCompareOperator() {
  for (const std::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
    if (SkipOperator(op)) return std::string(op);
  }
  if (SkipName("in")) return "in";
  if (!IsName("not") || !Is(Next(), TokenKind::kName, "in")) return "";
  Skip();
  Skip();
  return "not in";
}

ExprOr Parser::ParseCompare() {
  const int line = Current().line;
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  std::vector<ExprPtr> operands;
  std::vector<std::string> operators;
  operands.push_back(std::move(first));
  while (true) {
    LONGSPAN_ASSIGN_OR_RETURN(std::string op, ParseCompareOperator());
    if (op.empty()) break;
    operators.push_back(std::move(op));
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr operand, ParseSum());
    operands.push_back(std::move(operand));
  }
  if (operators.empty()) return std::move(operands[0]);
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr expr, Make(ExprKind::kCompare, line, std::move(operands)));
  expr->names = std::move(operators);
  return expr;
}

// Left-associative operators.
ExprOr Parser::ParseBinary(Names operators, ExprOr (Parser::*operand)()) {
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  while (Current().kind == TokenKind::kOperator &&
         std::find(operators.begin(), operators.end(), Current().text) != operators.end()) {
    const int line = Current().line;
    const std::string op = Current().text;
    Skip();
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    LONGSPAN_ASSIGN_OR_RETURN(
        left, Make(ExprKind::kBinary, line, Children(std::move(left), std::move(right)), op));
  }
  return left;
}

ExprOr Parser::ParseSum() { return ParseBinary({"+", "-"}, &Parser::ParseConcat); }

ExprOr Parser::ParseConcat() {
  const int line = Current().line;
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr first, ParseProduct());
  if (!IsOperator("~")) return first;
  std::vector<ExprPtr> parts = Children(std::move(first));
  while (SkipOperator("~")) {
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr part, ParseProduct());
    parts.push_back(std::move(part));
  }
  return Make(ExprKind::kConcat, line, std::move(parts));
}

ExprOr Parser::ParseProduct() { return ParseBinary({"*", "/", "//", "%"}, &Parser::ParsePower); }

// jinja2's power is left-associative, and -2**2 is (-2)**2, unlike Python's.
ExprOr Parser::ParsePower() { return ParseBinary({"**"}, &Parser::ParseUnary); }

ExprOr Parser::ParseUnary() { return ParseSigned(/*with_filters=*/true); }

ExprOr Parser::ParseSigned(bool with_filters) {
  const Nested nested(*this);
  LONGSPAN_RETURN_IF_ERROR(nested.Check());
  const int line = Current().line;
  const bool minus = IsOperator("-");
  ExprPtr expr;
  if (minus || IsOperator("+")) {
    Skip();
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr operand, ParseSigned(/*with_filters=*/false));
    LONGSPAN_ASSIGN_OR_RETURN(expr, Make(minus ? ExprKind::kNegative : ExprKind::kPositive, line,
                                         Children(std::move(operand))));
  } else {
    LONGSPAN_ASSIGN_OR_RETURN(expr, ParsePrimary());
  }
  LONGSPAN_ASSIGN_OR_RETURN(expr, ParsePostfix(std::move(expr)));
  if (!with_filters) return expr;
  return ParseFilters(std::move(expr));
}

ExprOr Parser::ParsePrimary() {
  const Token& token = Current();
  if (token.kind == TokenKind::kName) return ParseNamed();
  if (token.kind == TokenKind::kString) return ParseStrings();
  if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kFloat) {
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr expr, Make(ExprKind::kConstant, token.line, {}));
    expr->constant = token.kind == TokenKind::kInteger ? Value(token.integer) : Value(token.number);
    Skip();
    return expr;
  }
  if (IsOperator("[")) return ParseList();
  if (IsOperator("{")) return ParseDict();
  if (!SkipOperator("(")) return Error(StrCat("unexpected '", Describe(token), "'"));
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr expr, ParseTupleOrOne(true, {}, /*in_parentheses=*/true));
  LONGSPAN_RETURN_IF_ERROR(ExpectOperator(")"));
  return expr;
}

ExprOr Parser::ParseNamed() {
  static const std::pair<std::string_view, Value> kConstants[] = {
      {"true", true},   {"True", true},   {"false", false},
      {"False", false}, {"none", None{}}, {"None", None{}}};
  const int line = Current().line;
  std::string name = Current().text;
  Skip();
  for (const auto& [known, value] : kConstants) {
    if (name != known) continue;
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr expr, Make(ExprKind::kConstant, line, {}));
    expr->constant = value;
    return expr;
  }
  if (macro_ != nullptr) {
    if (name == "caller") return Refuse(line, "`caller` is not supported");
    macro_->catches_positional = macro_->catches_positional || name == "varargs";
    macro_->catches_named = macro_->catches_named || name == "kwargs";
  }
  return Make(ExprKind::kName, line, {}, std::move(name));
}

// Adjacent strings are one.
ExprOr Parser::ParseStrings() {
  const int line = Current().line;
  std::string text;
  for (; Current().kind == TokenKind::kString; Skip()) text += Current().text;
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr expr, Make(ExprKind::kConstant, line, {}));
  expr->constant = MakeString(std::move(text), nullptr);
  return expr;
}

ExprOr Parser::ParseList() {
  const int line = Current().line;
  Skip();
  std::vector<ExprPtr> items;
  while (!IsOperator("]")) {
    if (!items.empty()) LONGSPAN_RETURN_IF_ERROR(ExpectOperator(","));
    if (IsOperator("]")) break;
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    items.push_back(std::move(item));
  }
  Skip();
  return Make(ExprKind::kList, line, std::move(items));
}

ExprOr Parser::ParseDict() {
  const int line = Current().line;
  Skip();
  std::vector<ExprPtr> items;
  while (!IsOperator("}")) {
    if (!items.empty()) LONGSPAN_RETURN_IF_ERROR(ExpectOperator(","));
    if (IsOperator("}")) break;
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    LONGSPAN_RETURN_IF_ERROR(ExpectOperator(":"));
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    items.push_back(std::move(key));
    items.push_back(std::move(value));
  }
  Skip();
  return Make(ExprKind::kDict, line, std::move(items));
}

ExprOr Parser::ParsePostfix(ExprPtr expr) {
  while (IsOperator(".") || IsOperator("[") || IsOperator("(")) {
    LONGSPAN_ASSIGN_OR_RETURN(
        expr, IsOperator("(") ? ParseCall(std::move(expr)) : ParseSubscript(std::move(expr)));
  }
  return expr;
}

ExprOr Parser::ParseFilters(ExprPtr expr) {
  while (true) {
    if (IsOperator("|")) {
      Skip();
      LONGSPAN_ASSIGN_OR_RETURN(expr, ParseFilter(std::move(expr)));
    } else if (IsName("is")) {
      LONGSPAN_ASSIGN_OR_RETURN(expr, ParseTest(std::move(expr)));
    } else if (IsOperator("(")) {
      LONGSPAN_ASSIGN_OR_RETURN(expr, ParseCall(std::move(expr)));
    } else {
      return expr;
    }
  }
}

ExprOr Parser::ParseSubscript(ExprPtr object) {
  const int line = Current().line;
  if (SkipOperator(".")) {
    const Token token = Current();
    Skip();
    if (token.kind == TokenKind::kName) {
      return Make(ExprKind::kAttribute, line, Children(std::move(object)), token.text);
    }
    if (token.kind != TokenKind::kInteger) {
      return SyntaxError(token.line, "expected name or number");
    }
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr index, Make(ExprKind::kConstant, line, {}));
    index->constant = token.integer;
    return Make(ExprKind::kItem, line, Children(std::move(object), std::move(index)));
  }
  Skip();
  std::vector<ExprPtr> items;
  while (!IsOperator("]")) {
    if (!items.empty()) LONGSPAN_RETURN_IF_ERROR(ExpectOperator(","));
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr item, ParseSubscriptItem());
    items.push_back(std::move(item));
  }
  Skip();
  if (items.size() != 1) return Refuse(line, "a subscript of several items is not supported");
  return Make(ExprKind::kItem, line, Children(std::move(object), std::move(items[0])));
}

ExprOr Parser::ParseSubscriptItem() {
  const int line = Current().line;
  std::vector<ExprPtr> parts(3);
  const auto ends = [this] { return IsOperator("]") || IsOperator(",") || IsOperator(":"); };
  if (!IsOperator(":")) {
    LONGSPAN_ASSIGN_OR_RETURN(parts[0], ParseExpression());
    if (!IsOperator(":")) return std::move(parts[0]);
  }
  for (const int part : {1, 2}) {
    if (!SkipOperator(":")) break;
    if (ends()) continue;
    LONGSPAN_ASSIGN_OR_RETURN(parts[part], ParseExpression());
  }
  return Make(ExprKind::kSlice, line, std::move(parts));
}

absl::Status Parser::ParseArgument(Arguments& arguments) {
  const auto invalid = [this] { return Error("invalid syntax for function call expression"); };
  if (SkipOperator("*")) {
    if (arguments.positional_list != nullptr || arguments.named_dict != nullptr) return invalid();
    LONGSPAN_ASSIGN_OR_RETURN(arguments.positional_list, ParseExpression());
    return absl::OkStatus();
  }
  if (arguments.named_dict != nullptr) return invalid();
  if (SkipOperator("**")) {
    LONGSPAN_ASSIGN_OR_RETURN(arguments.named_dict, ParseExpression());
    return absl::OkStatus();
  }
  if (Current().kind == TokenKind::kName && Is(Next(), TokenKind::kOperator, "=")) {
    std::string name = Current().text;
    Skip();
    Skip();
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    for (const auto& [known, unused] : arguments.named) {
      if (known == name) return Error(StrCat("keyword argument repeated: ", name));
    }
    arguments.named.emplace_back(std::move(name), std::move(value));
    return absl::OkStatus();
  }
  if (arguments.positional_list != nullptr || !arguments.named.empty()) return invalid();
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
  arguments.positional.push_back(std::move(value));
  return absl::OkStatus();
}

// Of a call, and parameters of a macro. Each name is compared with all others.
constexpr size_t kMaxArguments = 255;

absl::Status Parser::ParseArguments(Expr& expr) {
  Arguments& arguments = expr.arguments;
  LONGSPAN_RETURN_IF_ERROR(ExpectOperator("("));
  for (bool first = true; !IsOperator(")"); first = false) {
    if (!first) LONGSPAN_RETURN_IF_ERROR(ExpectOperator(","));
    if (IsOperator(")") && !first) break;
    LONGSPAN_RETURN_IF_ERROR(ParseArgument(arguments));
    if (arguments.named.size() > kMaxArguments) {
      return Error(StrCat("more than ", kMaxArguments, " keyword arguments are not supported"));
    }
    if (arguments.positional.size() > kMaxArguments) {
      return Error(StrCat("more than ", kMaxArguments, " arguments are not supported"));
    }
  }
  Skip();
  const auto deepen = [&expr](const ExprPtr& argument) {
    if (argument != nullptr) expr.depth = std::max(expr.depth, argument->depth + 1);
  };
  for (const ExprPtr& argument : arguments.positional) deepen(argument);
  for (const auto& [name, argument] : arguments.named) deepen(argument);
  deepen(arguments.positional_list);
  deepen(arguments.named_dict);
  return expr.depth > kMaxParseDepth ? TooDeep() : absl::OkStatus();
}

ExprOr Parser::ParseCall(ExprPtr callee) {
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr call,
                            Make(ExprKind::kCall, Current().line, Children(std::move(callee))));
  LONGSPAN_RETURN_IF_ERROR(ParseArguments(*call));
  return call;
}

absl::StatusOr<std::string> Parser::ParseDottedName() {
  LONGSPAN_ASSIGN_OR_RETURN(std::string name, ExpectName());
  while (SkipOperator(".")) {
    LONGSPAN_ASSIGN_OR_RETURN(const std::string part, ExpectName());
    StrAppend(&name, ".", part);
  }
  return name;
}

ExprOr Parser::ParseFilter(ExprPtr input) {
  const int line = Current().line;
  LONGSPAN_ASSIGN_OR_RETURN(std::string name, ParseDottedName());
  const Builtin* const builtin = FindFilter(name);
  if (builtin == nullptr) {
    return Refuse(line, StrCat("unknown filter `", name, "`; supported: ", FilterNames()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(
      ExprPtr filter, Make(ExprKind::kFilter, line, Children(std::move(input)), std::move(name)));
  filter->builtin = builtin;
  if (IsOperator("(")) LONGSPAN_RETURN_IF_ERROR(ParseArguments(*filter));
  return filter;
}

ExprOr Parser::ParseTest(ExprPtr value) {
  const int line = Current().line;
  Skip();
  const bool negated = SkipName("not");
  LONGSPAN_ASSIGN_OR_RETURN(std::string name, ParseDottedName());
  const Builtin* const builtin = FindTest(name);
  if (builtin == nullptr) {
    return Refuse(line, StrCat("unknown test `", name, "`; supported: ", TestNames()));
  }
  LONGSPAN_ASSIGN_OR_RETURN(
      ExprPtr test, Make(ExprKind::kTest, line, Children(std::move(value)), std::move(name)));
  test->builtin = builtin;
  const TokenKind kind = Current().kind;
  const bool literal = kind == TokenKind::kName || kind == TokenKind::kString ||
                       kind == TokenKind::kInteger || kind == TokenKind::kFloat ||
                       IsOperator("[") || IsOperator("{");
  if (IsOperator("(")) {
    LONGSPAN_RETURN_IF_ERROR(ParseArguments(*test));
  } else if (literal && !IsOneOf({"else", "or", "and"})) {
    if (IsName("is")) return Error("You cannot chain multiple tests with is");
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    LONGSPAN_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    test->depth = std::max(test->depth, argument->depth + 1);
    if (test->depth > kMaxParseDepth) return TooDeep();
    test->arguments.positional.push_back(std::move(argument));
  }
  if (!negated) return test;
  return Make(ExprKind::kNot, line, Children(std::move(test)));
}

// ---- Statements ----

absl::StatusOr<Target> Parser::ParseOneTarget(bool attributes) {
  Target target;
  target.line = Current().line;
  if (SkipOperator("(")) {
    const Nested nested(*this);
    LONGSPAN_RETURN_IF_ERROR(nested.Check());
    LONGSPAN_ASSIGN_OR_RETURN(target, ParseTarget(false, {}));
    LONGSPAN_RETURN_IF_ERROR(ExpectOperator(")"));
    return target;
  }
  if (IsOneOf({"true", "True", "false", "False", "none", "None"})) {
    return Error("can't assign to 'const'");
  }
  if (IsName("loop") && !attributes) {
    return Error("can't assign to special loop variable in for-loop target");
  }
  LONGSPAN_ASSIGN_OR_RETURN(target.name, ExpectName());
  if (attributes && SkipOperator(".")) {
    LONGSPAN_ASSIGN_OR_RETURN(target.attribute, ExpectName());
  }
  return target;
}

absl::StatusOr<Target> Parser::ParseTarget(bool attributes, Names ends) {
  Target tuple;
  tuple.line = Current().line;
  bool is_tuple = false;
  while (true) {
    const TokenKind kind = Current().kind;
    if (kind == TokenKind::kBlockEnd || kind == TokenKind::kVariableEnd || IsOperator(")") ||
        IsOneOf(ends)) {
      break;
    }
    LONGSPAN_ASSIGN_OR_RETURN(Target element, ParseOneTarget(attributes));
    tuple.elements.push_back(std::move(element));
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (tuple.elements.empty()) {
    return Error(StrCat("expected a name to assign to, got '", Describe(Current()), "'"));
  }
  if (is_tuple) return tuple;
  Target only = std::move(tuple.elements[0]);
  return only;
}

// The body of a statement whose tag has been read up to its end.
absl::StatusOr<Body> Parser::ParseBlock(Names ends, bool skip_end) {
  SkipOperator(":");
  LONGSPAN_RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd, "end of statement block"));
  LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBody(ends));
  if (Current().kind == TokenKind::kEnd) {
    std::string tags;
    for (const std::string_view end : ends) StrAppend(&tags, tags.empty() ? "" : "' or '", end);
    return Error(StrCat("unexpected end of template, expected '", tags, "'"));
  }
  if (skip_end) Skip();
  return body;
}

absl::StatusOr<Body> Parser::ParseBody(Names ends) {
  const Nested nested(*this);
  LONGSPAN_RETURN_IF_ERROR(nested.Check());
  Body body;
  while (Current().kind != TokenKind::kEnd) {
    const Token& token = Current();
    if (token.kind == TokenKind::kData) {
      body.push_back(NewStatement(StatementKind::kData, token.line));
      body.back()->text = token.text;
      Skip();
      continue;
    }
    if (token.kind == TokenKind::kVariableBegin) {
      body.push_back(NewStatement(StatementKind::kPrint, token.line));
      Skip();
      LONGSPAN_ASSIGN_OR_RETURN(ExprPtr expr, ParseTupleOrOne(true));
      body.back()->expressions.push_back(std::move(expr));
      LONGSPAN_RETURN_IF_ERROR(Expect(TokenKind::kVariableEnd, "end of print statement"));
      continue;
    }
    Skip();
    if (IsOneOf(ends)) return body;
    LONGSPAN_ASSIGN_OR_RETURN(auto statement, ParseStatement());
    body.push_back(std::move(statement));
    LONGSPAN_RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd, "end of statement block"));
  }
  return body;
}

const std::pair<std::string_view, Parser::StatementParser> Parser::kStatements[] = {
    {"if", &Parser::ParseIf},
    {"for", &Parser::ParseFor},
    {"set", &Parser::ParseSet},
    {"macro", &Parser::ParseMacro},
    {"print", &Parser::ParsePrintTag},
    {"with", &Parser::ParseWith},
    {"filter", &Parser::ParseFilterBlock},
    {"generation", &Parser::ParseGeneration},
    {"break", &Parser::ParseLoopControl},
    {"continue", &Parser::ParseLoopControl},
    {"block", &Parser::ParseUnsupported},
    {"extends", &Parser::ParseUnsupported},
    {"include", &Parser::ParseUnsupported},
    {"import", &Parser::ParseUnsupported},
    {"from", &Parser::ParseUnsupported},
    {"autoescape", &Parser::ParseUnsupported},
    {"call", &Parser::ParseUnsupported},
};

StatementOr Parser::ParseStatement() {
  if (Current().kind != TokenKind::kName) return Error("tag name expected");
  for (const auto& [name, parse] : kStatements) {
    if (IsName(name)) return (this->*parse)();
  }
  return Error(StrCat("encountered unknown tag '", Current().text, "'"));
}

StatementOr Parser::ParseUnsupported() {
  std::string supported;
  for (const auto& [name, parse] : kStatements) {
    if (parse == &Parser::ParseUnsupported) continue;
    StrAppend(&supported, supported.empty() ? "" : ", ", name);
  }
  return Refuse(Current().line,
                StrCat("the tag `", Current().text,
                       "` is not supported in chat templates; supported: ", supported));
}

StatementOr Parser::ParsePrintTag() {
  auto print = NewStatement(StatementKind::kPrint, Current().line);
  Skip();
  while (Current().kind != TokenKind::kBlockEnd) {
    if (!print->expressions.empty()) LONGSPAN_RETURN_IF_ERROR(ExpectOperator(","));
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr expr, ParseExpression());
    print->expressions.push_back(std::move(expr));
  }
  return print;
}

StatementOr Parser::ParseIf() {
  auto statement = NewStatement(StatementKind::kIf, Current().line);
  do {
    Skip();
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr condition, ParseTupleOrOne(/*conditional=*/false));
    statement->expressions.push_back(std::move(condition));
    LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBlock({"elif", "else", "endif"}, false));
    statement->bodies.push_back(std::move(body));
  } while (IsName("elif"));
  const bool has_else = IsName("else");
  Skip();
  if (!has_else) return statement;
  LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBlock({"endif"}, true));
  statement->bodies.push_back(std::move(body));
  return statement;
}

StatementOr Parser::ParseFor() {
  auto loop = NewStatement(StatementKind::kFor, Current().line);
  Skip();
  LONGSPAN_ASSIGN_OR_RETURN(Target target, ParseTarget(false, {"in"}));
  loop->targets.push_back(std::move(target));
  if (!SkipName("in")) {
    return Error(StrCat("expected token 'in', got '", Describe(Current()), "'"));
  }
  LONGSPAN_ASSIGN_OR_RETURN(ExprPtr items, ParseTupleOrOne(false, {"recursive"}));
  loop->expressions.push_back(std::move(items));
  ExprPtr condition;
  if (SkipName("if")) {
    LONGSPAN_ASSIGN_OR_RETURN(condition, ParseExpression());
  }
  loop->expressions.push_back(std::move(condition));
  if (IsName("recursive")) return Refuse(loop->line, "recursive loops are not supported");
  ++loops_;
  LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBlock({"endfor", "else"}, false));
  --loops_;
  loop->bodies.push_back(std::move(body));
  const bool has_else = IsName("else");
  Skip();
  if (!has_else) return loop;
  LONGSPAN_ASSIGN_OR_RETURN(Body other, ParseBlock({"endfor"}, true));
  loop->bodies.push_back(std::move(other));
  return loop;
}

StatementOr Parser::ParseSet() {
  auto set = NewStatement(StatementKind::kSet, Current().line);
  Skip();
  LONGSPAN_ASSIGN_OR_RETURN(Target target, ParseTarget(/*attributes=*/true, {}));
  set->targets.push_back(std::move(target));
  if (SkipOperator("=")) {
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr value, ParseTupleOrOne(true));
    set->expressions.push_back(std::move(value));
    return set;
  }
  set->kind = StatementKind::kSetBlock;
  ExprPtr filter;
  while (SkipOperator("|")) {
    LONGSPAN_ASSIGN_OR_RETURN(filter, ParseFilter(std::move(filter)));
  }
  set->expressions.push_back(std::move(filter));
  LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBlock({"endset"}, true));
  set->bodies.push_back(std::move(body));
  return set;
}

StatementOr Parser::ParseWith() {
  auto with = NewStatement(StatementKind::kWith, Current().line);
  Skip();
  while (Current().kind != TokenKind::kBlockEnd) {
    if (!with->targets.empty()) LONGSPAN_RETURN_IF_ERROR(ExpectOperator(","));
    LONGSPAN_ASSIGN_OR_RETURN(Target target, ParseOneTarget(false));
    with->targets.push_back(std::move(target));
    LONGSPAN_RETURN_IF_ERROR(ExpectOperator("="));
    LONGSPAN_ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    with->expressions.push_back(std::move(value));
  }
  LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBlock({"endwith"}, true));
  with->bodies.push_back(std::move(body));
  return with;
}

StatementOr Parser::ParseFilterBlock() {
  auto block = NewStatement(StatementKind::kFilter, Current().line);
  ExprPtr filter;
  do {
    Skip();
    LONGSPAN_ASSIGN_OR_RETURN(filter, ParseFilter(std::move(filter)));
  } while (IsOperator("|"));
  block->expressions.push_back(std::move(filter));
  LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBlock({"endfilter"}, true));
  block->bodies.push_back(std::move(body));
  return block;
}

absl::Status Parser::ParseParameters(Statement& macro) {
  LONGSPAN_RETURN_IF_ERROR(ExpectOperator("("));
  while (!IsOperator(")")) {
    if (!macro.parameters.empty()) LONGSPAN_RETURN_IF_ERROR(ExpectOperator(","));
    Parameter parameter;
    LONGSPAN_ASSIGN_OR_RETURN(parameter.name, ExpectName());
    if (SkipOperator("=")) {
      LONGSPAN_ASSIGN_OR_RETURN(parameter.default_value, ParseExpression());
    } else if (!macro.parameters.empty() && macro.parameters.back().default_value != nullptr) {
      return Error("non-default argument follows default argument");
    }
    macro.parameters.push_back(std::move(parameter));
    if (macro.parameters.size() > kMaxArguments) {
      return Error(StrCat("more than ", kMaxArguments, " parameters are not supported"));
    }
  }
  Skip();
  return absl::OkStatus();
}

StatementOr Parser::ParseMacro() {
  auto macro = NewStatement(StatementKind::kMacro, Current().line);
  Skip();
  LONGSPAN_ASSIGN_OR_RETURN(macro->text, ExpectName());
  LONGSPAN_RETURN_IF_ERROR(ParseParameters(*macro));
  Statement* const outer_macro = std::exchange(macro_, macro.get());
  const int outer_loops = std::exchange(loops_, 0);
  LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBlock({"endmacro"}, true));
  macro_ = outer_macro;
  loops_ = outer_loops;
  for (const Parameter& parameter : macro->parameters) {
    if (parameter.name == "varargs") macro->catches_positional = false;
    if (parameter.name == "kwargs") macro->catches_named = false;
  }
  macro->bodies.push_back(std::move(body));
  return macro;
}

StatementOr Parser::ParseGeneration() {
  auto block = NewStatement(StatementKind::kGeneration, Current().line);
  Skip();
  const int outer_loops = std::exchange(loops_, 0);
  LONGSPAN_ASSIGN_OR_RETURN(Body body, ParseBlock({"endgeneration"}, true));
  loops_ = outer_loops;
  block->bodies.push_back(std::move(body));
  return block;
}

StatementOr Parser::ParseLoopControl() {
  const bool is_break = IsName("break");
  if (loops_ == 0) return Error(StrCat("'", Current().text, "' outside loop"));
  auto control =
      NewStatement(is_break ? StatementKind::kBreak : StatementKind::kContinue, Current().line);
  Skip();
  return control;
}

}  // namespace

absl::StatusOr<Body> Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return absl::ResourceExhaustedError(StrCat("the chat template has ", source.size(),
                                               " bytes, over the limit of ", kMaxSourceBytes));
  }
  if (WellFormedPrefix(source) != static_cast<int64_t>(source.size())) {
    return absl::InvalidArgumentError("the chat template is not well-formed UTF-8");
  }
  LONGSPAN_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).ParseBody({});
}

}  // namespace longspan::jinja
