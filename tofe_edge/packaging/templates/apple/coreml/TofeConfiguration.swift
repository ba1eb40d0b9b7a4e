// SPDX-License-Identifier: Apache-2.0
import CoreML

/// How to load the model.
public struct TofeConfiguration: Sendable {
    /// Which of the model's budgets to run.
    public var budget: TofeBudget
    /// Where Core ML may run it.
    public var computeUnits: MLComputeUnits

    public init(budget: TofeBudget = .standard, computeUnits: MLComputeUnits = .cpuAndNeuralEngine) {
        self.budget = budget
        self.computeUnits = computeUnits
    }
}
