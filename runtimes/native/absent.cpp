// Takes the place of what reads manifests, images and golden vectors in a build without the headers for it.
#include "failure.h"
#include "golden.h"
#include "image.h"
#include "manifest.h"

namespace tofe {
namespace {

[[noreturn]] void refuse(const std::string& path, const char* what) {
  throw Failure(ExitCode::kWrongCall, path + ": " + what +
                                          " need a runner that was built with the headers of nlohmann/json and "
                                          "stb_image; `apt-get install nlohmann-json3-dev libstb-dev`, then build it again");
}

}  // namespace

bool reads_manifests() { return false; }

Manifest read_manifest(const std::string& path) { refuse(path, "manifests"); }

Image read_image(const std::string& path) { refuse(path, "images"); }

GoldenSet read_golden(const std::string& folder, const Manifest&) { refuse(folder, "golden vectors"); }

}  // namespace tofe
