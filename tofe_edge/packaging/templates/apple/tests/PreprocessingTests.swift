// SPDX-License-Identifier: Apache-2.0
import XCTest

@testable import @MODULE@

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
