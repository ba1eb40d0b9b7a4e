// SPDX-License-Identifier: Apache-2.0
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
