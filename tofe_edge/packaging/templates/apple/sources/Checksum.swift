// SPDX-License-Identifier: Apache-2.0
import CryptoKit
import Foundation

/// How many bytes, and their SHA-256 in hexadecimal digits.
struct Checksum: Equatable {
    let sizeBytes: Int
    let sha256: String

    init(sizeBytes: Int, sha256: String) {
        self.sizeBytes = sizeBytes
        self.sha256 = sha256
    }

    init(of content: Data) {
        self.init(sizeBytes: content.count, sha256: Checksum.hex(SHA256.hash(data: content)))
    }

    /// Of a file, or of a folder: over the lines `path NUL size NUL sha256` of its files, in the order of their paths.
    init(of url: URL) throws {
        var isFolder: ObjCBool = false
        let manager = FileManager.default
        guard manager.fileExists(atPath: url.path, isDirectory: &isFolder) else {
            throw TofeError.damaged("\(url.lastPathComponent) is missing")
        }
        guard isFolder.boolValue else {
            self = try Checksum.streamed(url)
            return
        }
        var digest = SHA256()
        var total = 0
        for path in try Checksum.files(in: url) {
            let file = try Checksum.streamed(url.appendingPathComponent(path))
            total += file.sizeBytes
            digest.update(data: Data("\(path)\0\(file.sizeBytes)\0\(file.sha256)\n".utf8))
        }
        self.init(sizeBytes: total, sha256: Checksum.hex(digest.finalize()))
    }

    private static func files(in folder: URL) throws -> [String] {
        let manager = FileManager.default
        do {
            let paths = try manager.subpathsOfDirectory(atPath: folder.path).filter { path in
                var isFolder: ObjCBool = false
                let exists = manager.fileExists(
                    atPath: folder.appendingPathComponent(path).path, isDirectory: &isFolder)
                return exists && !isFolder.boolValue
            }
            let all = Set(paths)
            return paths.filter { !isOfFinder($0, among: all) }.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        } catch {
            throw TofeError.damaged("\(folder.lastPathComponent) cannot be read: \(error.localizedDescription)")
        }
    }

    /// What macOS leaves in folders that it shows or copies: its own list, and `._NAME` beside a file NAME. Whatever else is in
    /// the folder counts.
    private static func isOfFinder(_ path: String, among all: Set<String>) -> Bool {
        var parts = path.split(separator: "/")
        guard let name = parts.popLast() else { return false }
        if name == ".DS_Store" { return true }
        return name.hasPrefix("._") && all.contains((parts + [name.dropFirst(2)]).joined(separator: "/"))
    }

    private static func streamed(_ url: URL) throws -> Checksum {
        do {
            let handle = try FileHandle(forReadingFrom: url)
            defer { try? handle.close() }
            var digest = SHA256()
            var total = 0
            while let piece = try handle.read(upToCount: 1 << 20), !piece.isEmpty {
                digest.update(data: piece)
                total += piece.count
            }
            return Checksum(sizeBytes: total, sha256: hex(digest.finalize()))
        } catch {
            throw TofeError.damaged("\(url.lastPathComponent) cannot be read: \(error.localizedDescription)")
        }
    }

    private static func hex<Bytes: Sequence>(_ bytes: Bytes) -> String where Bytes.Element == UInt8 {
        bytes.map { String(format: "%02x", $0) }.joined()
    }
}
