// SPDX-License-Identifier: Apache-2.0
import XCTest

@testable import @MODULE@

/// The arithmetic of the self-test, and that its gates close.
final class ScoresTests: XCTestCase {
    func testDistances() {
        var distance = LogitDistance()
        distance.add(wanted: [3, -4], found: [3, -4])
        XCTAssertEqual(distance.snr, .infinity)
        distance.add(wanted: [0, 5], found: [0.5, 5])
        XCTAssertEqual(distance.snr, 10 * log10(50 / 0.25), accuracy: 1e-9)
        XCTAssertEqual(distance.psnr, 10 * log10(25 / 0.0625), accuracy: 1e-9)
        XCTAssertTrue(SelfTest.judge(distance, []).snrDb.isFinite)
        distance.add(wanted: [1], found: [.nan])
        XCTAssertEqual(distance.snr, -.infinity)
        XCTAssertFalse(SelfTest.judge(distance, []).passed)
    }

    func testOtherTokensFail() {
        var distance = LogitDistance()
        distance.add(wanted: [1], found: [1])
        XCTAssertTrue(SelfTest.judge(distance, [1, 1]).passed)
        XCTAssertEqual(SelfTest.judge(distance, [1, 0.5]).failures.count, 1)
        XCTAssertFalse(SelfTest.judge(distance, [.nan]).passed)
    }

    func testWhatIsNoWholeNumberIsNoIndex() throws {
        XCTAssertEqual(try tokenIndices([2, 0, 195] as [Float]), [2, 0, 195])
        for number in [Float.nan, .infinity, 0.5, 1e30] {
            XCTAssertThrowsError(try tokenIndices([1, number])) { error in
                guard case TofeError.runtime = error else { return XCTFail("\(error)") }
            }
        }
    }

    func testPositionsAreComposed() {
        XCTAssertEqual(keptPositions([[3, 1, 0, 2], [2, 0, 1]], kept: [3, 2]), [[3, 1, 0], [0, 3]])
        XCTAssertNil(keptPositions([[0, 1], [2]], kept: [1, 1]))
    }

    func testTheLikeliestComeFirst() {
        let best = topClasses([0, 2, 2], labels: ["a", "b", "c"], count: 2)
        XCTAssertEqual(best.map(\.label), ["b", "c"])
        XCTAssertEqual(best[0].probability, 1 / (2 + exp(-2)), accuracy: 1e-12)
    }
}
