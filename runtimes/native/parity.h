// Does a model compute what it should? The gates of tofe_edge/evaluation/evaluate/parity.py, without those on rates: a handful of golden vectors
// says nothing about how often a class changes.
#pragma once

#include <string>
#include <vector>

#include "prediction.h"

namespace tofe {

struct Gates {
  double min_snr_db = 0;
  double min_psnr_db = 0;  // minus infinity: not gated
  double min_kept_overlap = 0;
  bool skips_near_ties = false;
};

// Throws Failure(kBadFile) where the precision is not known.
Gates gates_of(const std::string& precision);

struct Pair {
  Prediction expected;
  Prediction found;
  bool near_tie = false;
};

struct Parity {
  std::string method;
  size_t images = 0;
  size_t near_ties = 0;  // images left out because either of two tokens may be kept
  double snr_db = 0;
  double psnr_db = 0;
  std::vector<double> kept_overlap;  // a stage: mean share of the expected tokens that were kept
  Gates gates;
  std::vector<std::string> failures;

  bool passed() const { return failures.empty(); }
};

// Compares the predictions of one method on at least one image.
Parity compare(const std::string& method, const std::vector<Pair>& pairs, const Gates& gates);

// One JSON object without line breaks: whether all passed, and each method's figures and gates.
std::string to_json(const std::vector<Parity>& parities);

}  // namespace tofe
