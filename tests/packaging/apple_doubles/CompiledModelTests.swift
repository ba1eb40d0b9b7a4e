// The compiled model is made once, kept, and made anew where it is damaged; what is over is removed.
import CoreML
import XCTest

@testable import @MODULE@

final class CompiledModelTests: XCTestCase {
    private let manager = FileManager.default

    private func kept() throws -> [URL] {
        let caches = try manager.url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let all = try manager.subpathsOfDirectory(atPath: caches.path)
        return all.filter { $0.contains(Facts.sha256) && $0.hasSuffix(".mlmodelc") }.map(caches.appendingPathComponent)
    }

    /// The kept model, loaded first where there is none.
    private func keptModel() async throws -> URL {
        _ = try await CompiledModel.load(MLModelConfiguration())
        return try XCTUnwrap(kept().first)
    }

    private func loadFour() async throws {
        async let one = CompiledModel.load(MLModelConfiguration())
        async let two = CompiledModel.load(MLModelConfiguration())
        async let three = CompiledModel.load(MLModelConfiguration())
        async let four = CompiledModel.load(MLModelConfiguration())
        _ = try await [one, two, three, four]
    }

    func testKeptAndMended() async throws {
        let model = try await keptModel()
        let mark = model.appendingPathComponent("mark")
        try Data().write(to: mark)
        _ = try await CompiledModel.load(MLModelConfiguration())
        XCTAssertTrue(manager.fileExists(atPath: mark.path), "it was compiled a second time")
        try manager.removeItem(at: model.appendingPathComponent("Manifest.json"))
        _ = try await CompiledModel.load(MLModelConfiguration())
        XCTAssertEqual(try kept().map(\.path), [model.path])
        XCTAssertFalse(manager.fileExists(atPath: mark.path))
    }

    func testSeveralAtOnceCompileOnce() async throws {
        let model = try await keptModel()
        for damage in [model, model.appendingPathComponent("Manifest.json")] {
            try manager.removeItem(at: damage)
            let before = MLModel.compilations
            try await loadFour()
            XCTAssertEqual(MLModel.compilations, before + 1)
            let names = try manager.contentsOfDirectory(atPath: model.deletingLastPathComponent().path)
            XCTAssertEqual(names, [model.lastPathComponent])
        }
    }

    func testWhatIsOverIsRemovedAndNothingElse() async throws {
        let model = try await keptModel()
        let folder = model.deletingLastPathComponent()
        let module = folder.deletingLastPathComponent()
        let now = Int(Date().timeIntervalSince1970)
        let over = [
            folder.appendingPathComponent("1.2.3.mlmodelc"), folder.appendingPathComponent("\(now - 3700)-interrupted.part"),
            module.appendingPathComponent(String(repeating: "0", count: 64)),
        ]
        let others = [
            folder.appendingPathComponent("\(now - 60)-at-work.part"), folder.appendingPathComponent("notes"),
            module.appendingPathComponent("notes"),
            module.deletingLastPathComponent().appendingPathComponent("OtherModel/\(String(repeating: "0", count: 64))"),
        ]
        for url in over + others { try manager.createDirectory(at: url, withIntermediateDirectories: true) }
        try manager.removeItem(at: model)
        _ = try await CompiledModel.load(MLModelConfiguration())
        for url in over { XCTAssertFalse(manager.fileExists(atPath: url.path), url.lastPathComponent) }
        for url in others {
            XCTAssertTrue(manager.fileExists(atPath: url.path), url.lastPathComponent)
            try? manager.removeItem(at: url)
        }
    }
}
