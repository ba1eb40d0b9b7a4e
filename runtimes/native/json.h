// JSON: files of strangers, read within limits; and reports, written with their keys in order.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "failure.h"

namespace tofe {

using Json = nlohmann::json;

// The document in a file. Throws Failure(kBadFile) if it is not JSON, too large, nested too deeply, has a key twice, or holds
// a number that is out of range.
Json read_json(const std::string& path);

// Says what is wrong without naming the file.
class Malformed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The value of a key. Throws Malformed if there is none or `object` is not an object.
const Json& member(const Json& object, const char* key);

// Throws Malformed unless the document has this schema and its digest is that of its content, or the schema before this one,
// which had no digest; returns whether it has one. As tofe_edge/io/documents.py.
bool check_digest(const Json& document, uint64_t schema);

// Typed values; each throws Malformed that names `what`.
std::string text(const Json& value, const char* what);
bool truth(const Json& value, const char* what);
double number(const Json& value, const char* what, double least, double most);
uint64_t whole(const Json& value, const char* what, uint64_t least, uint64_t most);
const Json& list(const Json& value, const char* what);

using Report = nlohmann::ordered_json;

// One line; numbers with six decimals at most, null for one that is infinite or not a number.
std::string to_text(Report report);

}  // namespace tofe
