// Does this machine compute what the model's converter saw? Replays golden vectors, NAME.golden/: inputs as PNG, and what
// the model computed where it was converted. See docs/formats.md.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "classifier.h"
#include "image.h"
#include "manifest.h"

namespace tofe {

struct GoldenVector {
  std::string method;
  std::string file;
  Prediction expected;
  std::vector<uint32_t> tokens;  // patches whose features are stored; empty if all values are
  bool near_tie = false;         // either of two tokens may be kept
};

struct GoldenSet {
  std::map<std::string, Image> images;  // by file name
  std::vector<GoldenVector> vectors;
};

// Reads a folder and checks all of it against the manifest. Throws Failure(kBadFile) if it is missing, damaged or another
// model's.
GoldenSet read_golden(const std::string& folder, const Manifest& manifest);

// The gates of tofe_edge/evaluation/parity.py that hold for whatever a model gives, without those on rates: a handful of
// golden vectors says nothing about how often a class changes.
struct Gates {
  double min_snr_db = 0;
  double min_psnr_db = 0;  // minus infinity: not gated
  double min_kept_overlap = 0;
  bool skips_near_ties = false;
};

struct Parity {
  std::string method;
  size_t images = 0;
  size_t near_ties = 0;  // images left out because either of two tokens may be kept
  double snr_db = 0;
  double psnr_db = 0;
  std::vector<double> kept_overlap;  // per stage: mean share of the expected tokens that were kept
  Gates gates;
  std::vector<std::string> failures;

  bool passed() const { return failures.empty(); }
};

// Compares the vectors of the classifier's method. Throws Failure as the classifier does, and kBadFile for an unknown precision.
Parity replay(Classifier& classifier, const GoldenSet& golden);

// "method forward: logits SNR …" of the first failure; empty if all passed.
std::string first_failure(const std::vector<Parity>& parities);

}  // namespace tofe
