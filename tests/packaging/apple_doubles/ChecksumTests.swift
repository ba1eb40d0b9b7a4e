// What counts for the checksum of a folder, and what macOS leaves there does not.
import XCTest

@testable import @MODULE@

final class ChecksumTests: XCTestCase {
    func testOnlyWhatMacosLeavesIsLeftOut() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString, isDirectory: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        try FileManager.default.createDirectory(
            at: folder.appendingPathComponent("Data"), withIntermediateDirectories: true)
        func write(_ name: String) throws { try Data(name.utf8).write(to: folder.appendingPathComponent(name)) }
        try write("Manifest.json")
        try write("Data/weight.bin")
        let plain = try Checksum(of: folder)
        for name in [".DS_Store", "Data/.DS_Store", "._Manifest.json", "Data/._weight.bin"] { try write(name) }
        XCTAssertEqual(try Checksum(of: folder), plain)
        for name in [".DS_Store.bin", "._weight.bin", "Data/._", "Data/._Manifest.json"] {
            try write(name)
            XCTAssertNotEqual(try Checksum(of: folder), plain, name)
            try FileManager.default.removeItem(at: folder.appendingPathComponent(name))
        }
        XCTAssertEqual(try Checksum(of: folder), plain)
    }
}
