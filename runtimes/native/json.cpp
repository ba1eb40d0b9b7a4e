#include "json.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <vector>

#include "files.h"
#include "sha256.h"

namespace tofe {
namespace {

constexpr size_t kLargestFile = size_t{64} << 20;
constexpr int kDeepest = 32;

[[noreturn]] void refuse(const std::string& what, const std::string& wanted) {
  throw Malformed(what + " must be " + wanted);
}

void round_numbers(Report& value) {
  constexpr double kPlaces = 1e6;
  if (value.is_number_float()) value = std::round(value.get<double>() * kPlaces) / kPlaces;
  if (value.is_structured()) {
    for (Report& one : value) round_numbers(one);
  }
}

// Refuses while it is parsed what a document of ours never has.
class Limits {
 public:
  bool operator()(int depth, Json::parse_event_t event, const Json& value) {
    if (depth > kDeepest) throw Malformed("it is nested too deeply");
    if (event == Json::parse_event_t::object_start) keys_.emplace_back();
    if (event == Json::parse_event_t::object_end) keys_.pop_back();
    if (event == Json::parse_event_t::key && !keys_.back().insert(value.get<std::string>()).second) {
      throw Malformed("key '" + value.get<std::string>() + "' stands there twice");
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
};

// The bits of a number, as digits.
std::string digits(double value) {
  uint64_t bits = 0;
  static_assert(sizeof bits == sizeof value);
  std::memcpy(&bits, &value, sizeof bits);
  std::string result;
  for (int shift = 60; shift >= 0; shift -= 4) result += "0123456789abcdef"[(bits >> shift) & 0xf];
  return result;
}

// Appends the one text for these values, however they are written.
void append_canonical(const Json& value, std::string& result) {
  const auto append_text = [&](const std::string& text) { result += "s" + std::to_string(text.size()) + ":" + text; };
  if (value.is_null()) {
    result += "n";
  } else if (value.is_boolean()) {
    result += value.get<bool>() ? "t" : "f";
  } else if (value.is_string()) {
    append_text(value.get_ref<const std::string&>());
  } else if (value.is_number()) {
    result += "d" + digits(value.get<double>());
  } else if (value.is_object()) {
    result += "{";
    for (const auto& [key, one] : value.items()) {  // in the order of the keys' bytes
      append_text(key);
      append_canonical(one, result);
    }
    result += "}";
  } else {
    result += "[";
    for (const Json& one : value) append_canonical(one, result);
    result += "]";
  }
}

}  // namespace

Json read_json(const std::string& path) {
  const std::string content = read_file(path, kLargestFile, ExitCode::kBadFile);
  try {
    return Json::parse(content, Limits());
  } catch (const Json::parse_error& error) {
    throw Failure(ExitCode::kBadFile, path + ": cannot be read as JSON (near byte " + std::to_string(error.byte) +
                                          "); copy it again or convert the model again");
  } catch (const Json::exception&) {
    // The parser's other complaint: 1e999.
    throw Failure(ExitCode::kBadFile, path + ": cannot be read as JSON (a number is out of range); give the right file");
  } catch (const Malformed& error) {
    throw Failure(ExitCode::kBadFile, path + ": cannot be read as JSON (" + error.what() + "); give the right file");
  }
}

const Json& member(const Json& object, const char* key) {
  if (!object.is_object()) throw Malformed(std::string("what should hold key '") + key + "' is not an object");
  const auto found = object.find(key);
  if (found == object.end()) throw Malformed(std::string("key '") + key + "' is missing");
  return *found;
}

bool check_digest(const Json& document, uint64_t schema) {
  const uint64_t stated = whole(member(document, "schema"), "schema", 0, std::numeric_limits<uint32_t>::max());
  if (stated != schema && stated + 1 != schema) throw Malformed("its schema is not " + std::to_string(schema));
  if (stated != schema) return false;
  const std::string expected = text(member(document, "digest"), "digest");
  Json content = document;
  content.erase("digest");
  std::string canonical;
  append_canonical(content, canonical);
  Sha256 digest;
  digest.update(canonical.data(), canonical.size());
  if (digest.hex() != expected) throw Malformed("its digest is not that of its content: it was damaged or changed");
  return true;
}

std::string text(const Json& value, const char* what) {
  if (!value.is_string()) refuse(what, "a text");
  return value.get<std::string>();
}

bool truth(const Json& value, const char* what) {
  if (!value.is_boolean()) refuse(what, "true or false");
  return value.get<bool>();
}

double number(const Json& value, const char* what, double least, double most) {
  // Written so that NaN, which this parser refuses anyway, would fail.
  if (value.is_number()) {
    const double found = value.get<double>();
    if (found >= least && found <= most) return found;
  }
  refuse(what, "a number in its range");
}

uint64_t whole(const Json& value, const char* what, uint64_t least, uint64_t most) {
  if (value.is_number_unsigned()) {
    const auto found = value.get<uint64_t>();
    if (found >= least && found <= most) return found;
  }
  refuse(what, "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
}

const Json& list(const Json& value, const char* what) {
  if (!value.is_array()) refuse(what, "a list");
  return value;
}

std::string to_text(Report report) {
  round_numbers(report);
  // A text of another program may hold anything.
  return report.dump(-1, ' ', false, Report::error_handler_t::replace);
}

}  // namespace tofe
