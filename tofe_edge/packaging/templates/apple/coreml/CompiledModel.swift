// SPDX-License-Identifier: Apache-2.0
import CoreML
import Foundation

/// The model in the form that Core ML loads, made on the device when it is first used and kept in the app's caches.
///
/// Its folder has the model's checksum in it, so that a new version of the app never meets an old model, and its name the
/// version of the system that compiled it.
enum CompiledModel {
    /// Loads the model; the package's checksum is checked first, every time.
    static func load(_ configuration: MLModelConfiguration) async throws -> MLModel {
        let package = try Resources.model()
        let compiled = try place()
        if FileManager.default.fileExists(atPath: compiled.path) {
            do {
                return try await MLModel.load(contentsOf: compiled, configuration: configuration)
            } catch {
                // What an interrupted device or a half-emptied cache left is made anew, once.
                try? FileManager.default.removeItem(at: compiled)
            }
        }
        try await compile(package, to: compiled)
        do {
            return try await MLModel.load(contentsOf: compiled, configuration: configuration)
        } catch {
            throw TofeError.runtime("Core ML cannot load it: \(error.localizedDescription)")
        }
    }

    private static func place() throws -> URL {
        let system = ProcessInfo.processInfo.operatingSystemVersion
        let version = "\(system.majorVersion).\(system.minorVersion).\(system.patchVersion)"
        let app = Bundle.main.bundleIdentifier ?? ProcessInfo.processInfo.processName
        do {
            return try FileManager.default
                .url(for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
                .appendingPathComponent(app, isDirectory: true)
                .appendingPathComponent("tofe-edge", isDirectory: true)
                .appendingPathComponent(Facts.sha256, isDirectory: true)
                .appendingPathComponent("\(version).mlmodelc", isDirectory: true)
        } catch {
            throw TofeError.storage("there is no folder for caches: \(error.localizedDescription)")
        }
    }

    private static func compile(_ package: URL, to compiled: URL) async throws {
        let made: URL
        do {
            made = try await MLModel.compileModel(at: package)
        } catch {
            throw TofeError.runtime("Core ML cannot compile it: \(error.localizedDescription)")
        }
        let manager = FileManager.default
        let folder = compiled.deletingLastPathComponent()
        let part = folder.appendingPathComponent("\(UUID().uuidString).part", isDirectory: true)
        defer {
            try? manager.removeItem(at: made)
            try? manager.removeItem(at: part)
        }
        do {
            try manager.createDirectory(at: folder, withIntermediateDirectories: true)
            // What other versions of the system compiled, and what was interrupted.
            for name in try manager.contentsOfDirectory(atPath: folder.path) where name != compiled.lastPathComponent {
                try? manager.removeItem(at: folder.appendingPathComponent(name))
            }
            // Moving between volumes copies; within the folder it is one step, so that nobody sees a part.
            try manager.moveItem(at: made, to: part)
            try manager.moveItem(at: part, to: compiled)
        } catch {
            // Another instance may have been faster.
            guard manager.fileExists(atPath: compiled.path) else {
                throw TofeError.storage("it cannot be kept in \(folder.path): \(error.localizedDescription)")
            }
        }
    }
}
