// SPDX-License-Identifier: Apache-2.0
import CoreML
import Foundation

/// The model in the form that Core ML loads, made on the device when it is first used and kept in the app's caches.
///
/// Its folder has this module's name and the model's checksum in it, so that a new version of the app never meets an old model,
/// and its name the version of the system that compiled it.
actor CompiledModel {
    private static let shared = CompiledModel()
    /// The compilation at work; whoever needs the model meanwhile waits for this one.
    private var running: Task<Void, Error>?
    /// How many were begun since the app started.
    private var round = 0

    /// Loads the model; the package's checksum is checked first, every time.
    static func load(_ configuration: MLModelConfiguration) async throws -> MLModel {
        let package = try Resources.model()
        let place = try CompiledModel.place()
        let round = try await shared.makeReady(package, at: place)
        do {
            return try await MLModel.load(contentsOf: place, configuration: configuration)
        } catch {
            // What an interrupted device or a half-emptied cache left is made anew, once.
            _ = try await shared.makeReady(package, at: place, unless: round)
        }
        do {
            return try await MLModel.load(contentsOf: place, configuration: configuration)
        } catch {
            throw TofeError.runtime("Core ML cannot load it: \(error.localizedDescription)")
        }
    }

    /// Compiles the model if nothing is kept, or if what is kept could not be loaded.
    ///
    /// - Parameter failed: the round whose result could not be loaded; if another instance has begun the next one already,
    ///   that is the one to load.
    /// - Returns: the round that the kept model is of.
    private func makeReady(_ package: URL, at place: URL, unless failed: Int? = nil) async throws -> Int {
        // An actor takes the next call while one waits: what comes meanwhile must find the task.
        if let running {
            try await running.value
        } else if failed == round || !FileManager.default.fileExists(atPath: place.path) {
            round += 1
            let task = Task { try await CompiledModel.compile(package, to: place) }
            running = task
            defer { running = nil }
            try await task.value
        }
        return round
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
                .appendingPathComponent("@MODULE@", isDirectory: true)
                .appendingPathComponent(Facts.sha256, isDirectory: true)
                .appendingPathComponent("\(version).mlmodelc", isDirectory: true)
        } catch {
            throw TofeError.storage("there is no folder for caches: \(error.localizedDescription)")
        }
    }

    private static func compile(_ package: URL, to place: URL) async throws {
        let made: URL
        do {
            made = try await MLModel.compileModel(at: package)
        } catch {
            throw TofeError.runtime("Core ML cannot compile it: \(error.localizedDescription)")
        }
        let manager = FileManager.default
        let folder = place.deletingLastPathComponent()
        let (part, replaced) = (newPart(in: folder), newPart(in: folder))
        defer {
            for url in [made, part, replaced] { try? manager.removeItem(at: url) }
        }
        do {
            try manager.createDirectory(at: folder, withIntermediateDirectories: true)
            // Moving between volumes copies; within the folder it is one step, so that nobody sees a part.
            try manager.moveItem(at: made, to: part)
            if manager.fileExists(atPath: place.path) { try manager.moveItem(at: place, to: replaced) }
            try manager.moveItem(at: part, to: place)
        } catch {
            // Another process of this app may have been faster.
            guard manager.fileExists(atPath: place.path) else {
                throw TofeError.storage("it cannot be kept in \(folder.path): \(error.localizedDescription)")
            }
        }
        removeWhatIsOver(beside: place)
    }

    /// A name that nobody else takes. It begins with the time: to ask a file for its age is an API that needs a reason.
    private static func newPart(in folder: URL) -> URL {
        let name = "\(Int(Date().timeIntervalSince1970))-\(UUID().uuidString).part"
        return folder.appendingPathComponent(name, isDirectory: true)
    }

    /// Removes what other versions of the system compiled, what was interrupted long ago, and earlier models of this module.
    private static func removeWhatIsOver(beside place: URL) {
        let manager = FileManager.default
        let folder = place.deletingLastPathComponent()
        for url in contents(of: folder) where url.lastPathComponent != place.lastPathComponent {
            let begun = Int(url.lastPathComponent.prefix { $0 != "-" }) ?? .max
            // What is younger than an hour may be another process's, at work.
            let isInterrupted = url.pathExtension == "part" && begun < Int(Date().timeIntervalSince1970) - 3600
            if url.pathExtension == "mlmodelc" || isInterrupted { try? manager.removeItem(at: url) }
        }
        for url in contents(of: folder.deletingLastPathComponent()) {
            let name = url.lastPathComponent
            let isChecksum = name.count == 64 && name.allSatisfy(\.isHexDigit)
            if isChecksum && name != Facts.sha256 { try? manager.removeItem(at: url) }
        }
    }

    /// What cannot be read is left alone: nothing depends on its removal.
    private static func contents(of folder: URL) -> [URL] {
        (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
    }
}
