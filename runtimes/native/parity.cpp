#include "parity.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <set>

#include "failure.h"
#include "json_writer.h"

namespace tofe {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1e-9;

std::string rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

// Power of the expected logits, of the difference, and the largest expected magnitude.
struct Powers {
  double signal = 0;
  double noise = 0;
  double peak = 0;
  size_t count = 0;
  bool finite = true;

  void add(const Prediction& expected, const Prediction& found) {
    for (size_t i = 0; i < expected.logits.size(); ++i) {
      const double wanted = expected.logits[i];
      const double got = found.logits[i];
      finite = finite && std::isfinite(got);
      signal += wanted * wanted;
      noise += (wanted - got) * (wanted - got);
      peak = std::max(peak, std::fabs(wanted));
      ++count;
    }
  }

  double snr_db() const {
    if (!finite) return -kInfinity;
    if (noise == 0) return kInfinity;
    return signal > 0 ? 10 * std::log10(signal / noise) : -kInfinity;
  }

  double psnr_db() const {
    const double power = signal / static_cast<double>(count);
    return snr_db() + (power > 0 ? 20 * std::log10(peak) - 10 * std::log10(power) : 0);
  }
};

double overlap(const std::vector<int64_t>& expected, const std::vector<int64_t>& found) {
  const std::set<int64_t> wanted(expected.begin(), expected.end());
  const std::set<int64_t> kept(found.begin(), found.end());
  const auto shared = std::count_if(kept.begin(), kept.end(), [&](int64_t one) { return wanted.count(one) > 0; });
  return static_cast<double>(shared) / std::max<double>(1, static_cast<double>(wanted.size()));
}

std::string gates_json(const Gates& gates) {
  return "{\"min_snr_db\": " + fixed(gates.min_snr_db) + ", \"min_psnr_db\": " + fixed(gates.min_psnr_db) +
         ", \"min_kept_overlap\": " + fixed(gates.min_kept_overlap) +
         ", \"skips_near_ties\": " + (gates.skips_near_ties ? "true" : "false") + "}";
}

// The keys of Parity.to_json in Python, as far as they are there; an infinite ratio is null.
std::string parity_json(const Parity& parity) {
  return "{\"method\": " + quoted(parity.method) + ", \"passed\": " + (parity.passed() ? "true" : "false") +
         ", \"images\": " + std::to_string(parity.images) + ", \"near_ties\": " + std::to_string(parity.near_ties) +
         ", \"snr_db\": " + fixed(parity.snr_db) + ", \"psnr_db\": " + fixed(parity.psnr_db) +
         ", \"kept_overlap\": " + list_json(parity.kept_overlap, fixed) + ", \"gates\": " + gates_json(parity.gates) +
         ", \"failures\": " + list_json(parity.failures, quoted) + "}";
}

}  // namespace

std::string to_json(const std::vector<Parity>& parities) {
  const bool passed = std::all_of(parities.begin(), parities.end(), [](const Parity& one) { return one.passed(); });
  return std::string("{\"passed\": ") + (passed ? "true" : "false") + ", \"methods\": " + list_json(parities, parity_json) +
         "}";
}

Gates gates_of(const std::string& precision) {
  if (precision == "fp32") return {60, -kInfinity, 1.0, true};
  if (precision == "fp16") return {20, 35, 0.98, false};
  if (precision == "int8" || precision == "pal6" || precision == "pal4") return {10, -kInfinity, 0.85, false};
  throw Failure(ExitCode::kBadFile, "the manifest's precision '" + precision + "' is not known; convert the model again");
}

Parity compare(const std::string& method, const std::vector<Pair>& pairs, const Gates& gates) {
  const bool all_tied = std::all_of(pairs.begin(), pairs.end(), [](const Pair& one) { return one.near_tie; });
  Powers powers;
  Parity result;
  result.method = method;
  result.gates = gates;
  result.images = pairs.size();
  result.kept_overlap.assign(pairs.front().expected.kept.size(), 0);
  size_t counted = 0;
  for (const Pair& pair : pairs) {
    if (gates.skips_near_ties && pair.near_tie && !all_tied) continue;
    powers.add(pair.expected, pair.found);
    for (size_t stage = 0; stage < result.kept_overlap.size(); ++stage) {
      result.kept_overlap[stage] += overlap(pair.expected.kept[stage], pair.found.kept[stage]);
    }
    ++counted;
  }
  result.near_ties = pairs.size() - counted;
  result.snr_db = powers.snr_db();
  result.psnr_db = powers.psnr_db();
  // Written so that what is no number fails.
  if (!(result.snr_db >= gates.min_snr_db)) {
    result.failures.push_back("logits SNR " + rounded(result.snr_db) + " dB is under " + rounded(gates.min_snr_db) + " dB");
  }
  if (!(result.psnr_db >= gates.min_psnr_db)) {
    result.failures.push_back("logits PSNR " + rounded(result.psnr_db) + " dB is under " + rounded(gates.min_psnr_db) + " dB");
  }
  for (size_t stage = 0; stage < result.kept_overlap.size(); ++stage) {
    double& share = result.kept_overlap[stage];
    share /= static_cast<double>(counted);
    if (!(share >= gates.min_kept_overlap - kRounding)) {
      result.failures.push_back("kept-token overlap of stage " + std::to_string(stage + 1) + " " + rounded(100 * share) +
                                "% is under " + rounded(100 * gates.min_kept_overlap) + "%");
    }
  }
  return result;
}

}  // namespace tofe
