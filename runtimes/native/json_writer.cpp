#include "json_writer.h"

#include <cmath>
#include <cstdio>

namespace tofe {

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[7];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      result += escape;
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string fixed(double value) {
  if (!std::isfinite(value)) return "null";
  char text[340];
  std::snprintf(text, sizeof text, "%.6f", value);
  return text;
}

}  // namespace tofe
