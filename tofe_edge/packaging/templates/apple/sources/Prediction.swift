// SPDX-License-Identifier: Apache-2.0

/// One class of a list, best first.
public struct Prediction: Equatable, Sendable {
    /// Its position among the model's outputs.
    public let index: Int
    /// Its name, as in `labels.txt`.
    public let label: String
    /// The softmax of the logits, 0 to 1.
    public let probability: Double
}
