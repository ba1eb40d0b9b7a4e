// SPDX-License-Identifier: Apache-2.0

/// One of the model's budgets: the same weights, fewer or more tokens.
public enum TofeBudget: String, CaseIterable, Sendable {
@BUDGET_CASES@

    /// What the model was converted for.
    public static let standard: TofeBudget = .@STANDARD_BUDGET@

    /// 1e9 multiply-accumulates of one image.
    public var gmacs: Double {
        switch self {
@BUDGET_GMACS@
        }
    }

    /// Patch tokens kept per stage; empty for a dense model.
    public var keptTokens: [Int] {
        switch self {
@BUDGET_TOKENS@
        }
    }
}
