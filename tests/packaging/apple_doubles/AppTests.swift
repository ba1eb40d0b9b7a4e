// How an app uses the package, and what it meets when files are damaged.
import CoreGraphics
import ImageIO
import XCTest

@testable import @MODULE@

final class AppTests: XCTestCase {
    /// 100 x 80 pixels of noise, as the recording has it: turned to the right, seen as 80 x 100.
    private var picture: CGImage {
        let rgba = (0..<(100 * 80 * 4)).map { number -> UInt8 in
            if number % 4 == 3 { return 255 }
            var value = UInt32(number) &* 2_654_435_761
            value ^= value >> 15
            value = value &* 2_246_822_519
            return UInt8(truncatingIfNeeded: value >> 24)
        }
        return CGImage(width: 100, height: 80, rgba: rgba)
    }

    func testClassesOfATurnedPhotograph() async throws {
        let classifier = try await TofeClassifier()
        let found = try await classifier.classify(picture, orientation: .right, top: 3)
        XCTAssertEqual(found.map(\.index), [9, 8, 7])
        XCTAssertEqual(found.map(\.label), try Array(Resources.labels().reversed().prefix(3)))
        let shares = (0..<10).map { exp(Double($0) / 4) }
        XCTAssertEqual(found[0].probability, shares[9] / shares.reduce(0, +), accuracy: 1e-9)
        let all = try await classifier.classify(picture, orientation: .right, top: 99)
        XCTAssertEqual(all.count, 10)
    }

    func testTwoInstancesAtOnce() async throws {
        async let one = TofeClassifier()
        async let other = TofeClassifier()
        let pair = try await [one, other]
        async let first = pair[0].selfTest()
        async let second = pair[1].selfTest()
        async let third = pair[0].selfTest()
        async let fourth = TofeClassifier().selfTest()
        for result in try await [first, second, third, fourth] { XCTAssertTrue(result.passed, "\(result)") }
    }

    func testImagesThatCannotBeUsed() async throws {
        let classifier = try await TofeClassifier()
        let narrow = CGImage(width: 1, height: 60_000, rgba: [UInt8](repeating: 9, count: 240_000))
        for (image, top) in [(picture, 0), (narrow, 5)] {
            do {
                _ = try await classifier.classify(image, top: top)
                XCTFail("was classified")
            } catch TofeError.input(let text) {
                XCTAssertFalse(text.isEmpty)
            }
        }
    }

    func testTransparentPixelsAreWhite() throws {
        let image = CGImage(width: 1, height: 2, rgba: [10, 20, 30, 0, 10, 20, 30, 255])
        let pixels = try Pixels(image, orientation: .up)
        var row: [UInt8] = [0, 0, 0]
        pixels.copyRow(0, into: &row)
        XCTAssertEqual(row, [255, 255, 255])
        pixels.copyRow(1, into: &row)
        XCTAssertEqual(row, [10, 20, 30])
    }

    func testDamagedFilesAreRefused() async throws {
        for name in ["labels.txt", Facts.modelFile, "\(Facts.goldenFolder)/0.png", "\(Facts.goldenFolder)/golden.json"] {
            var url = try Resources.url(name)
            var isFolder: ObjCBool = false
            _ = FileManager.default.fileExists(atPath: url.path, isDirectory: &isFolder)
            if isFolder.boolValue { url.appendPathComponent("Data/com.apple.CoreML/weights/weight.bin") }
            let content = try Data(contentsOf: url)
            var damaged = content
            damaged[content.count / 2] ^= 1
            for wrong in [damaged, nil] {
                try FileManager.default.removeItem(at: url)
                try wrong?.write(to: url)
                do {
                    let classifier = try await TofeClassifier()
                    let result = try await classifier.selfTest()
                    XCTFail("\(name) was taken: \(result)")
                } catch let error as TofeError {
                    guard case .damaged = error else { XCTFail("\(error)"); continue }
                    XCTAssertTrue(error.localizedDescription.hasPrefix("The classifier's files are not as they should be"))
                }
                try content.write(to: url)
            }
        }
        let result = try await TofeClassifier().selfTest()
        XCTAssertTrue(result.passed)
    }
}
