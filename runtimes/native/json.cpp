#include "json.h"

#include <cmath>

#include "files.h"

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

}  // namespace

Json read_json(const std::string& path) {
  const std::string content = read_file(path, kLargestFile, ExitCode::kBadFile);
  const auto limit_depth = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kDeepest) throw Malformed("it is nested too deeply");
    return true;
  };
  try {
    return Json::parse(content, limit_depth);
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
