// SPDX-License-Identifier: Apache-2.0
import Foundation

/// Whatever goes wrong in this package. The case is for programs, the text for people.
public enum TofeError: Error, Equatable, Sendable {
    /// An argument or an image cannot be used.
    case input(String)
    /// A file of this package is missing from the app or damaged.
    case damaged(String)
    /// The compiled model cannot be kept on the device.
    case storage(String)
    /// The model cannot be loaded or run.
    case runtime(String)
}

extension TofeError: LocalizedError {
    public var errorDescription: String? {
        switch self {
        case .input(let what): return "The image cannot be @DONE@: \(what)"
        case .damaged(let what): return "The @INSTANCE@'s files are not as they should be: \(what)"
        case .storage(let what): return "The @INSTANCE@ cannot be stored: \(what)"
        case .runtime(let what): return "The @INSTANCE@ cannot run: \(what)"
        }
    }

    public var recoverySuggestion: String? {
        switch self {
        case .input: return "Give another image."
        case .damaged: return "Install the app again."
        case .storage: return "Free some storage and try again."
        case .runtime: return "Restart the app; if that does not help, update the system or the app."
        }
    }
}
