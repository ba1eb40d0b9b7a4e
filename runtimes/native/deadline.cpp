// The rule of runtimes/deadline.py, operation by operation: the same latencies give the same methods to the bit.
#include "deadline.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "failure.h"

namespace tofe {
namespace {

// The reason for each is in deadline.py.
constexpr size_t kWindow = 32;
constexpr size_t kMinSamples = 10;
constexpr uint64_t kSettle = 3;
constexpr double kMargin = 0.85;
constexpr uint64_t kDwell = 32;
constexpr uint64_t kTrial = 256;
constexpr uint64_t kMaxWait = 1024;

void require(bool holds, const char* rule) {
  if (!holds) throw Failure(ExitCode::kWrongCall, rule);
}

bool positive(double value) { return value > 0 && std::isfinite(value); }

}  // namespace

DeadlinePolicy::DeadlinePolicy(std::vector<Budget> budgets, double deadline_ms) : deadline_ms_(deadline_ms), wait_(kDwell) {
  require(positive(deadline_ms), "the deadline must be positive and finite");
  require(!budgets.empty(), "a deadline needs at least one method");
  std::sort(budgets.begin(), budgets.end(), [](const Budget& a, const Budget& b) { return a.gmacs < b.gmacs; });
  for (Budget& budget : budgets) {
    require(positive(budget.gmacs), "the GMACs of every method must be positive and finite");
    require(budgets_.empty() || budgets_.back().budget.gmacs < budget.gmacs, "every method needs a cost of its own");
    budgets_.push_back({std::move(budget)});
  }
}

bool DeadlinePolicy::meets_deadline() const {
  const auto measured = [](const Known& one) { return one.p90_ms.has_value(); };
  return std::none_of(budgets_.begin(), budgets_.end(), measured) || predict(index_) <= deadline_ms_;
}

void DeadlinePolicy::observe(double latency_ms) {
  require(positive(latency_ms), "a latency must be positive and finite");
  ++runs_;
  ++stay_;
  if (on_trial_ && stay_ > kTrial) {
    on_trial_ = false;
    wait_ = kDwell;
  }
  if (stay_ <= kSettle) return;
  samples_.push_back(latency_ms);
  if (samples_.size() > kWindow) samples_.pop_front();
  if (samples_.size() < kMinSamples) return;

  std::vector<double> sorted(samples_.begin(), samples_.end());
  std::sort(sorted.begin(), sorted.end());
  const double p90_ms = sorted[(9 * sorted.size() + 9) / 10 - 1];
  learn(p90_ms);
  if (p90_ms > deadline_ms_) {
    streak_ = 0;
    switch_to(best(index_));
    return;
  }
  const size_t goal = best(budgets_.size());
  goal_ = streak_ > 0 ? std::min(goal, goal_) : goal;
  streak_ = goal > index_ ? streak_ + 1 : 0;
  if (streak_ >= kDwell && stay_ >= wait_) switch_to(goal_);
}

// If the present method's percentile differs from the prediction, the device has changed: scales all.
void DeadlinePolicy::learn(double p90_ms) {
  const bool first = stay_ == kSettle + kMinSamples;
  const bool any = std::any_of(budgets_.begin(), budgets_.end(), [](const Known& one) { return one.p90_ms.has_value(); });
  if (any && !(first && on_trial_)) {
    const double drift = p90_ms / predict(index_);
    for (Known& one : budgets_) {
      if (one.p90_ms) *one.p90_ms *= drift;
    }
  }
  budgets_[index_].p90_ms = p90_ms;
  budgets_[index_].measured_at = runs_;
}

// An old measurement counts only if it is better news than the ratio of GMACs from the nearest fresh one.
double DeadlinePolicy::predict(size_t index) const {
  const auto fresh = [&](size_t i) { return budgets_[i].p90_ms && runs_ - budgets_[i].measured_at <= kMaxWait; };
  const Known& asked = budgets_[index];
  if (fresh(index)) return *asked.p90_ms;
  const Known* near = nullptr;
  const auto distance = [&](size_t i) { return i < index ? index - i : i - index; };
  for (size_t i = 0; i < budgets_.size(); ++i) {
    if (fresh(i) && (near == nullptr || distance(i) < distance(near - budgets_.data()))) near = &budgets_[i];
  }
  // The present method is measured in every decision, and before any there is nothing to predict.
  const double scaled = near == nullptr ? INFINITY : *near->p90_ms * asked.budget.gmacs / near->budget.gmacs;
  return std::min(scaled, asked.p90_ms.value_or(INFINITY));
}

// The largest budget below `end` that is predicted to stay under the margin, or the smallest of all.
size_t DeadlinePolicy::best(size_t end) const {
  while (end > 0 && !(predict(end - 1) <= kMargin * deadline_ms_)) --end;
  return end > 0 ? end - 1 : 0;
}

void DeadlinePolicy::switch_to(size_t index) {
  if (index == index_) return;
  if (index < index_ && on_trial_) wait_ = std::min(2 * wait_, kMaxWait);
  on_trial_ = index > index_;
  index_ = index;
  samples_.clear();
  stay_ = streak_ = 0;
}

}  // namespace tofe
