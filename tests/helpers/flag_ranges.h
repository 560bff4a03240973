// Values outside the range of a flag (llm/flags/train_flags.h).
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <type_traits>
#include <variant>

#include "llm/flags/train_flags.h"

// Calls check() with `field` just below its range and just above; then it has its value again. Only numbers have
// ranges.
template <class Field, class Check>
void for_each_value_outside(const Flag& flag, Field& field, Check&& check) {
  if constexpr (!std::is_same_v<Field, std::string> && !std::is_same_v<Field, bool>) {
    CAPTURE(flag.name);
    const Field before = field;
    const auto [low, high] = std::get<Numbers>(flag.values);
    for (const double outside : {low - 1, high * 1.01 + 1}) {
      if (outside < 0 && std::is_unsigned_v<Field>) continue;
      field = static_cast<Field>(outside);
      check();
    }
    field = before;
  }
}
