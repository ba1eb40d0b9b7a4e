// Which budget of a model to run next: the largest whose predicted 90th percentile keeps a deadline. docs/native.md has the
// rule, runtimes/deadline.py is the same in Python.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace tofe {

// No clock, no randomness: the same latencies give the same decisions. Time is counted in runs.
class DeadlinePolicy {
 public:
  struct Budget {
    std::string method;
    double gmacs = 0;  // only ratios count
  };

  // In any order. Throws Failure(kWrongCall) if there is none, two have the same cost, or a number is not positive and finite.
  DeadlinePolicy(std::vector<Budget> budgets, double deadline_ms);

  // The method to run next; at first the cheapest.
  const std::string& method() const { return budgets_[index_].budget.method; }

  // False if even the present method's 90th percentile, measured or predicted, is over the deadline.
  bool meets_deadline() const;

  // Takes the time of one run of method(), which may be another one afterwards. Throws Failure(kWrongCall) if the time is
  // not positive and finite; nothing has changed then.
  void observe(double latency_ms);

 private:
  struct Known {
    Budget budget;
    std::optional<double> p90_ms = {};  // once measured: its 90th percentile at the device's present speed
    uint64_t measured_at = 0;           // the run when it was
  };

  void learn(double p90_ms);
  double predict(size_t index) const;
  size_t best(size_t end) const;
  void switch_to(size_t index);

  std::vector<Known> budgets_;  // the cheapest first
  double deadline_ms_;
  size_t index_ = 0;
  std::deque<double> samples_;  // of the present method
  uint64_t runs_ = 0;           // since the start
  uint64_t stay_ = 0;           // since the last switch
  uint64_t streak_ = 0;         // decisions in a row for a step up
  size_t goal_ = 0;             // the smallest budget that they asked for
  uint64_t wait_;               // runs between a switch and the next step up
  bool on_trial_ = false;       // the last switch was a step up and has not proved itself
};

}  // namespace tofe
