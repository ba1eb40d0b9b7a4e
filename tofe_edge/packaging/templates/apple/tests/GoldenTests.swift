// SPDX-License-Identifier: Apache-2.0
import XCTest

@testable import @MODULE@

/// The model computes here what it computed where it was converted: `Model/@NAME@.golden`, for every budget.
final class GoldenTests: XCTestCase {
    func testGoldenVectors() async throws {
        for budget in TofeBudget.allCases {
            let @INSTANCE@ = try await @CLASS@(configuration: TofeConfiguration(budget: budget))
            let result = try await @INSTANCE@.selfTest()
            XCTAssertTrue(result.passed, "\(budget.rawValue): \(result)")
        }
    }
}
