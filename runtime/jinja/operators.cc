#include <algorithm>
#include <cmath>

#include "kernels/base/status_macros.h"
#include "runtime/jinja/eval.h"

namespace longspan::jinja {
namespace {

constexpr double kMaxExactInt = 9007199254740992.0;  // 2^53

absl::Status TooLarge() { return Unsupported("integers beyond 128 bits are not supported"); }
absl::Status DivisionByZero() { return Fault("division by zero"); }

absl::Status WrongTypes(std::string_view op, const Value& a, const Value& b) {
  return Fault("unsupported operand type(s) for ", op, ": '", TypeName(a), "' and '", TypeName(b),
               "'");
}

absl::StatusOr<Value> Repeat(Rendering& rendering, const Value& value, Int count) {
  const double times = std::max(0.0, static_cast<double>(count));
  if (const String* text = As<String>(value)) {
    LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(times * text->text.size()));
    std::string out;
    out.reserve(static_cast<size_t>(times) * text->text.size());
    for (Int i = 0; i < count && !text->text.empty(); ++i) out += text->text;
    return rendering.Text(std::move(out));
  }
  const Sequence* const sequence = As<Sequence>(value);
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(times * sequence->items.size() * sizeof(Value)));
  Values items;
  for (Int i = 0; i < count && !sequence->items.empty(); ++i) {
    items.insert(items.end(), sequence->items.begin(), sequence->items.end());
  }
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step(items.size()));
  return MakeSequence(sequence->kind, std::move(items), &rendering.budget);
}

bool IsListOrTuple(const Value& value) {
  return IsSequence(value, SequenceKind::kList) || IsSequence(value, SequenceKind::kTuple);
}

absl::StatusOr<Value> Add(Rendering& rendering, const Value& a, const Value& b) {
  Int i, j, sum;
  double x, y;
  if (AsInt(a, &i) && AsInt(b, &j)) {
    if (__builtin_add_overflow(i, j, &sum)) return TooLarge();
    return sum;
  }
  if (AsNumber(a, &x) && AsNumber(b, &y)) return x + y;
  if (As<String>(a) != nullptr && As<String>(b) != nullptr) {
    return rendering.Text(StrCat(As<String>(a)->text, As<String>(b)->text));
  }
  if (IsListOrTuple(a) && IsListOrTuple(b) && As<Sequence>(a)->kind == As<Sequence>(b)->kind) {
    const Values& more = As<Sequence>(b)->items;
    LONGSPAN_RETURN_IF_ERROR(
        CheckCopy(As<Sequence>(a)->items.size() + more.size(), rendering.budget));
    Values items = As<Sequence>(a)->items;
    items.insert(items.end(), more.begin(), more.end());
    return MakeSequence(As<Sequence>(a)->kind, std::move(items), &rendering.budget);
  }
  return WrongTypes("+", a, b);
}

absl::StatusOr<Value> Subtract(Rendering&, const Value& a, const Value& b) {
  Int i, j, difference;
  double x, y;
  if (AsInt(a, &i) && AsInt(b, &j)) {
    if (__builtin_sub_overflow(i, j, &difference)) return TooLarge();
    return difference;
  }
  if (AsNumber(a, &x) && AsNumber(b, &y)) return x - y;
  return WrongTypes("-", a, b);
}

absl::StatusOr<Value> Multiply(Rendering& rendering, const Value& a, const Value& b) {
  Int i, j, product;
  double x, y;
  if (AsInt(a, &i) && AsInt(b, &j)) {
    if (__builtin_mul_overflow(i, j, &product)) return TooLarge();
    return product;
  }
  if (AsNumber(a, &x) && AsNumber(b, &y)) return x * y;
  const auto repeats = [](const Value& value) {
    return As<String>(value) != nullptr || IsListOrTuple(value);
  };
  if (repeats(a) && AsInt(b, &j)) return Repeat(rendering, a, j);
  if (repeats(b) && AsInt(a, &i)) return Repeat(rendering, b, i);
  return WrongTypes("*", a, b);
}

absl::StatusOr<Value> Divide(Rendering&, const Value& a, const Value& b) {
  double x, y;
  if (!AsNumber(a, &x) || !AsNumber(b, &y)) return WrongTypes("/", a, b);
  if (y == 0) return DivisionByZero();
  Int i, j;
  if (AsInt(a, &i) && AsInt(b, &j) && std::max(std::abs(x), std::abs(y)) > kMaxExactInt) {
    return Unsupported("division of integers beyond 2^53 is not supported");
  }
  return x / y;
}

// Python's float divmod: the quotient is rounded down and the remainder has the divisor's sign.
void FloatDivmod(double x, double y, double* quotient, double* remainder) {
  double mod = std::fmod(x, y);
  double div = (x - mod) / y;
  if (mod != 0) {
    if ((y < 0) != (mod < 0)) mod += y, div -= 1;
  } else {
    mod = std::copysign(0.0, y);
  }
  double floor = std::copysign(0.0, x / y);
  if (div != 0) {
    floor = std::floor(div);
    if (div - floor > 0.5) floor += 1;
  }
  *quotient = floor;
  *remainder = mod;
}

absl::StatusOr<Value> FloorDivide(Rendering&, const Value& a, const Value& b) {
  Int i, j;
  double x, y, quotient, remainder;
  if (AsInt(a, &i) && AsInt(b, &j)) {
    if (j == 0) return DivisionByZero();
    if (j == -1) return Negate(i);
    return i / j - ((i % j != 0 && (i < 0) != (j < 0)) ? 1 : 0);
  }
  if (!AsNumber(a, &x) || !AsNumber(b, &y)) return WrongTypes("//", a, b);
  if (y == 0) return DivisionByZero();
  FloatDivmod(x, y, &quotient, &remainder);
  return quotient;
}

absl::StatusOr<Value> Modulo(Rendering&, const Value& a, const Value& b) {
  Int i, j;
  double x, y, quotient, remainder;
  if (As<String>(a) != nullptr) return Unsupported("formatting with % is not supported");
  if (AsInt(a, &i) && AsInt(b, &j)) {
    if (j == 0) return DivisionByZero();
    if (j == -1) return Int{0};
    return i % j + ((i % j != 0 && (i < 0) != (j < 0)) ? j : 0);
  }
  if (!AsNumber(a, &x) || !AsNumber(b, &y)) return WrongTypes("%", a, b);
  if (y == 0) return DivisionByZero();
  FloatDivmod(x, y, &quotient, &remainder);
  return remainder;
}

absl::StatusOr<Value> Power(Rendering& rendering, const Value& a, const Value& b) {
  Int base, exponent;
  double x, y;
  if (AsInt(a, &base) && AsInt(b, &exponent) && exponent >= 0) {
    if (base == 0 || base == 1) return exponent == 0 ? Int{1} : base;
    if (base == -1) return exponent % 2 == 0 ? Int{1} : Int{-1};
    if (exponent > 127) return TooLarge();
    Int power = 1;
    for (Int i = 0; i < exponent; ++i) {
      if (__builtin_mul_overflow(power, base, &power)) return TooLarge();
    }
    return power;
  }
  if (!AsNumber(a, &x) || !AsNumber(b, &y)) return WrongTypes("** or pow()", a, b);
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Step());
  if (x == 0 && y < 0) return Fault("0.0 cannot be raised to a negative power");
  if (x < 0 && std::isfinite(x) && std::isfinite(y) && y != std::floor(y)) {
    return Unsupported("complex numbers are not supported");
  }
  const double power = std::pow(x, y);
  if (std::isinf(power) && std::isfinite(x) && std::isfinite(y)) {
    return Fault("the result of ** is too large");
  }
  return power;
}

struct Operator {
  std::string_view name;
  absl::StatusOr<Value> (*apply)(Rendering& rendering, const Value& a, const Value& b);
};

constexpr Operator kOperators[] = {
    {"+", Add},          {"-", Subtract}, {"*", Multiply}, {"/", Divide},
    {"//", FloorDivide}, {"%", Modulo},   {"**", Power},
};

// A bound of a slice as slice.indices computes it.
int64_t SliceBound(Int bound, int64_t length, bool backwards) {
  const Int low = backwards ? -1 : 0;
  const Int high = backwards ? length - 1 : length;
  if (bound < 0) bound += length;
  return static_cast<int64_t>(std::clamp<Int>(bound, low, high));
}

// The positions that a slice selects.
std::vector<int64_t> SliceIndices(int64_t length, const Int* begin, const Int* end, Int step) {
  const bool backwards = step < 0;
  int64_t at =
      begin != nullptr ? SliceBound(*begin, length, backwards) : (backwards ? length - 1 : 0);
  const int64_t stop =
      end != nullptr ? SliceBound(*end, length, backwards) : (backwards ? -1 : length);
  const auto stride = static_cast<int64_t>(std::clamp<Int>(step, -length - 1, length + 1));
  std::vector<int64_t> indices;
  for (; backwards ? at > stop : at < stop; at += stride) indices.push_back(at);
  return indices;
}

// Nothing for Missing and None.
absl::StatusOr<const Int*> SliceArgument(const Value& value, Int* storage) {
  if (IsMissing(value) || IsNone(value)) return nullptr;
  if (AsInt(value, storage)) return storage;
  return Fault("slice indices must be integers or None");
}

absl::StatusOr<Value> SliceText(Rendering& rendering, const String& text,
                                const std::vector<int64_t>& indices) {
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(text.text.size()));
  const bool forward = indices.size() < 2 || indices[1] == indices[0] + 1;
  if (indices.empty()) return rendering.Text("");
  if (forward) {
    const size_t begin = ByteOffset(text.text, indices[0]);
    const std::string_view rest = std::string_view(text.text).substr(begin);
    return rendering.Text(std::string(rest.substr(0, ByteOffset(rest, indices.size()))));
  }
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(1.0 * text.length * sizeof(std::string_view)));
  const auto characters = Characters(text.text);
  std::string out;
  for (const int64_t i : indices) out.append(characters[i]);
  return rendering.Text(std::move(out));
}

}  // namespace

absl::StatusOr<Value> BinaryOperation(Rendering& rendering, std::string_view op, const Value& a,
                                      const Value& b) {
  if (IsUndefined(a)) return UndefinedError(a);
  if (IsUndefined(b) && As<String>(a) != nullptr && op == "%") return Modulo(rendering, a, b);
  if (IsUndefined(b)) return UndefinedError(b);
  for (const Operator& known : kOperators) {
    if (op == known.name) return known.apply(rendering, a, b);
  }
  return Unsupported("the operator ", op, " is not supported");
}

absl::StatusOr<Value> Negate(const Value& value) {
  Int integer, negative;
  if (IsUndefined(value)) return UndefinedError(value);
  if (AsInt(value, &integer)) {
    if (__builtin_sub_overflow(Int{0}, integer, &negative)) return TooLarge();
    return negative;
  }
  if (const auto* number = std::get_if<double>(&value)) return -*number;
  return Fault("bad operand type for unary -: '", TypeName(value), "'");
}

absl::StatusOr<Value> Plus(const Value& value) {
  Int integer;
  if (IsUndefined(value)) return UndefinedError(value);
  if (AsInt(value, &integer)) return integer;
  if (std::holds_alternative<double>(value)) return value;
  return Fault("bad operand type for unary +: '", TypeName(value), "'");
}

absl::StatusOr<Value> Slice(Rendering& rendering, const Value& object, const Value& begin,
                            const Value& end, const Value& step) {
  if (IsUndefined(object)) return UndefinedError(object);
  const String* const text = As<String>(object);
  const Sequence* const sequence = As<Sequence>(object);
  if (IsSequence(object, SequenceKind::kRange)) {
    return Unsupported("slices of a range are not supported: make it a list first");
  }
  if (text == nullptr && !IsListOrTuple(object)) {
    return Fault("'", TypeName(object), "' object cannot be sliced");
  }
  Int storage[3];
  const Int* bounds[3];
  const Value* const arguments[] = {&begin, &end, &step};
  for (int i = 0; i < 3; ++i) {
    LONGSPAN_ASSIGN_OR_RETURN(bounds[i], SliceArgument(*arguments[i], &storage[i]));
  }
  if (bounds[2] != nullptr && *bounds[2] == 0) return Fault("slice step cannot be zero");
  const int64_t length =
      text != nullptr ? text->length : static_cast<int64_t>(sequence->items.size());
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.Room(1.0 * length * sizeof(int64_t)));
  const auto indices =
      SliceIndices(length, bounds[0], bounds[1], bounds[2] == nullptr ? Int{1} : *bounds[2]);
  LONGSPAN_RETURN_IF_ERROR(rendering.budget.StepBytes(indices.size()));
  if (text != nullptr) return SliceText(rendering, *text, indices);
  Values items;
  for (const int64_t i : indices) items.push_back(sequence->items[i]);
  return MakeSequence(sequence->kind, std::move(items), &rendering.budget);
}

}  // namespace longspan::jinja
