// SPDX-License-Identifier: Apache-2.0
import Foundation

/// The files of this package in the app, checked as they are read.
enum Resources {
    static func url(_ name: String) throws -> URL {
        guard let folder = Bundle.module.url(forResource: "Model", withExtension: nil) else {
            throw TofeError.damaged("the app lacks the folder Model of this package")
        }
        return folder.appendingPathComponent(name)
    }

    /// The model; its checksum is right.
    static func model() throws -> URL {
        let model = try url(Facts.modelFile)
        let actual = try Checksum(of: model)
        guard actual == Checksum(sizeBytes: Facts.sizeBytes, sha256: Facts.sha256) else {
            throw TofeError.damaged("the checksum of \(Facts.modelFile) is \(actual.sha256)")
        }
        return model
    }

    /// A small file; its checksum is right.
    static func content(_ name: String) throws -> Data {
        let content: Data
        do {
            content = try Data(contentsOf: url(name))
        } catch let error as TofeError {
            throw error
        } catch {
            throw TofeError.damaged("\(name) cannot be read: \(error.localizedDescription)")
        }
        guard Checksum(of: content).sha256 == Facts.sums[name] else {
            throw TofeError.damaged("the checksum of \(name) is not what it should be")
        }
        return content
    }
@LABELS_SWIFT@}
