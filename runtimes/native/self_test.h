// Replays golden vectors: does this machine compute what the model's converter saw?
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "classifier.h"
#include "golden.h"
#include "parity.h"

namespace tofe {

// The vectors of the classifier's method. Throws Failure as the classifier does.
Parity replay(Classifier& classifier, const GoldenSet& golden);

// Every method of a model, one after the other. Throws Failure.
std::vector<Parity> self_test(const std::string& model, const Manifest& manifest, const std::string& golden_folder,
                              uint32_t threads);

// "method forward: logits SNR …" of the first failure; empty where all passed.
std::string first_failure(const std::vector<Parity>& parities);

}  // namespace tofe
