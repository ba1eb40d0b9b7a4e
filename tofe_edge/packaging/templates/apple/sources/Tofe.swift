// SPDX-License-Identifier: Apache-2.0
import CoreGraphics
import Foundation
import ImageIO

/// @DOES@ with @NAME@.
///
/// One instance holds one loaded model. Its work is done off the main thread, one call after the other. Everything that goes
/// wrong is a `TofeError`.
public actor @CLASS@ {
    /// Which of the model's budgets this instance runs.
    public nonisolated let budget: TofeBudget
@INIT@
@METHOD@
    /// Runs the model on the images that it brings and compares with what it computed where it was converted: whether this
    /// device, its system and this code give what was measured.
    public func selfTest() async throws -> SelfTestResult {
        try SelfTest.run(network)
    }
}
