// Pieces of JSON text.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace tofe {

// A JSON text of UTF-8.
std::string quoted(const std::string& text);

// With six decimals; null where it is infinite or no number.
std::string fixed(double value);

template <typename Items, typename Format>
std::string list_json(const Items& items, Format format) {
  std::string result = "[";
  for (const auto& item : items) result += (result.size() > 1 ? ", " : "") + format(item);
  return result + ']';
}

template <typename Value, typename Format>
std::string object_json(const std::map<std::string, Value>& members, Format format) {
  std::string result = "{";
  for (const auto& [key, value] : members) result += (result.size() > 1 ? ", " : "") + quoted(key) + ": " + format(value);
  return result + '}';
}

}  // namespace tofe
