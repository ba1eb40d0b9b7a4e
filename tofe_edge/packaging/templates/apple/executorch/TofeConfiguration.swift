// SPDX-License-Identifier: Apache-2.0

/// How to load the model.
public struct TofeConfiguration: Sendable {
    /// Which of the model's budgets to run.
    public var budget: TofeBudget

    public init(budget: TofeBudget = .standard) {
        self.budget = budget
    }
}
