import XCTest

@testable import @MODULE@

/// Resizing gives the bytes that Pillow gave when the package was made.
final class ResampleTests: XCTestCase {
    private struct Case {
        let width: Int, height: Int, toWidth: Int, toHeight: Int, left: Int, top: Int, size: Int
        let filter: PillowResize.Filter
        let source: String, expected: String
    }

    /// Sources as red, green, blue and one byte that is not used; both in Base64.
    private let cases: [Case] = [
@RESAMPLE_CASES@
    ]

    func testEqualsPillow() throws {
        for (number, one) in cases.enumerated() {
            let source = [UInt8](try XCTUnwrap(Data(base64Encoded: one.source)))
            let found = PillowResize.window(
                Pixels(bytes: source, width: one.width, height: one.height), width: one.toWidth, height: one.toHeight,
                filter: one.filter, left: one.left, top: one.top, size: one.size)
            XCTAssertEqual(found, [UInt8](try XCTUnwrap(Data(base64Encoded: one.expected))), "case \(number)")
        }
    }

    /// What Pillow made of a stored image of 3 x 2 pixels by EXIF orientation, 1 to 8.
    private let upright: [String] = [
@UPRIGHT_CASES@
    ]

    func testTurnsAsExifSays() throws {
        let source = [UInt8](try XCTUnwrap(Data(base64Encoded: "@UPRIGHT_SOURCE@")))
        for (number, expected) in upright.enumerated() {
            let turned = Pixels(bytes: source, width: 3, height: 2, exifOrientation: number + 1)
            XCTAssertEqual(turned.width, number < 4 ? 3 : 2)
            var found: [UInt8] = []
            for y in 0..<turned.height {
                var row = [UInt8](repeating: 0, count: turned.width * PillowResize.channels)
                turned.copyRow(y, into: &row)
                found += row
            }
            XCTAssertEqual(found, [UInt8](try XCTUnwrap(Data(base64Encoded: expected))), "orientation \(number + 1)")
        }
    }
}

/// Images of many shapes become the inputs that the reference makes of them, to the bit.
final class PreprocessingTests: XCTestCase {
    private struct Case {
        let width: Int, height: Int
        /// SHA-256 of the square's bytes, and of the normalised numbers as single precision, low byte first.
        let square: String, normalized: String
    }

    private let cases: [Case] = [
@PREPROCESSING_CASES@
    ]

    /// Noise that both sides can make: a hash of the number of each byte.
    private func noise(_ width: Int, _ height: Int) -> Pixels {
        let bytes = (0..<(width * height * Pixels.stored)).map { number -> UInt8 in
            var value = UInt32(truncatingIfNeeded: number) &* 2_654_435_761
            value ^= value >> 15
            value = value &* 2_246_822_519
            return UInt8(truncatingIfNeeded: value >> 24)
        }
        return Pixels(bytes: bytes, width: width, height: height)
    }

    func testEqualsTheReference() throws {
        for one in cases {
            let square = try Preprocessing.square(noise(one.width, one.height))
            XCTAssertEqual(Checksum(of: Data(square.bytes)).sha256, one.square, "\(one.width) x \(one.height)")
            let numbers = Preprocessing.normalize(square).map(\.bitPattern.littleEndian).withUnsafeBytes { Data($0) }
            XCTAssertEqual(Checksum(of: numbers).sha256, one.normalized, "\(one.width) x \(one.height)")
        }
    }

    func testRefusesWhatIsTooNarrow() {
        let narrow = Pixels(bytes: [UInt8](repeating: 0, count: 4 * 60_000), width: 1, height: 60_000)
        XCTAssertThrowsError(try Preprocessing.square(narrow)) { error in
            guard case TofeError.input = error else { return XCTFail("\(error)") }
        }
    }
}

/// The arithmetic of the self-test, and that its gates close.
final class ScoresTests: XCTestCase {
    func testDistances() {
        var distance = OutputDistance()
        distance.add(expected: [3, -4], actual: [3, -4])
        XCTAssertEqual(distance.snr, .infinity)
        distance.add(expected: [0, 5], actual: [0.5, 5])
        XCTAssertEqual(distance.snr, 10 * log10(50 / 0.25), accuracy: 1e-9)
        XCTAssertEqual(distance.psnr, 10 * log10(25 / 0.0625), accuracy: 1e-9)
        XCTAssertTrue(SelfTest.judge(distance, []).snrDb.isFinite)
        distance.add(expected: [1], actual: [.nan])
        XCTAssertEqual(distance.snr, -.infinity)
        XCTAssertFalse(SelfTest.judge(distance, []).passed)
    }

    func testOtherTokensFail() {
        var distance = OutputDistance()
        distance.add(expected: [1], actual: [1])
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
