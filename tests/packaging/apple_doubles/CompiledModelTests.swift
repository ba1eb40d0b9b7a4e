// The compiled model is kept, and made anew where it is damaged.
import CoreML
import XCTest

@testable import @MODULE@

final class CompiledModelTests: XCTestCase {
    private func kept() throws -> [URL] {
        let caches = try FileManager.default.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let all = try FileManager.default.subpathsOfDirectory(atPath: caches.path)
        return all.filter { $0.contains(Facts.sha256) && $0.hasSuffix(".mlmodelc") }.map(caches.appendingPathComponent)
    }

    func testKeptAndMended() async throws {
        _ = try await CompiledModel.load(MLModelConfiguration())
        let folder = try XCTUnwrap(kept().first)
        let mark = folder.appendingPathComponent("mark")
        try Data().write(to: mark)
        _ = try await CompiledModel.load(MLModelConfiguration())
        XCTAssertTrue(FileManager.default.fileExists(atPath: mark.path), "it was compiled a second time")
        let old = folder.deletingLastPathComponent().appendingPathComponent("1.2.3.mlmodelc")
        try FileManager.default.createDirectory(at: old, withIntermediateDirectories: true)
        try FileManager.default.removeItem(at: folder.appendingPathComponent("Manifest.json"))
        _ = try await CompiledModel.load(MLModelConfiguration())
        XCTAssertEqual(try kept().map(\.path), [folder.path])
        XCTAssertFalse(FileManager.default.fileExists(atPath: mark.path))
    }
}
