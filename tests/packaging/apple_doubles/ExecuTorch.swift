// What the package uses of ExecuTorch: a module that plays back what ExecuTorch made of recorded inputs.
import Foundation

public protocol Scalar {}
extension Float: Scalar {}
extension Int64: Scalar {}

public protocol ValueConvertible { func asValue() -> Value }

/// Memory that tensors look into; of outputs the module's, which its next run overwrites.
final class Storage {
    var data: Data
    init(_ data: Data) { self.data = data }
}

public final class Tensor<T: Scalar>: ValueConvertible {
    private let storage: Storage
    fileprivate init(_ storage: Storage) { self.storage = storage }
    public init(data: Data, shape: [Int]) {
        precondition(data.count == shape.reduce(MemoryLayout<T>.stride, *))
        storage = Storage(data)
    }
    public func asValue() -> Value { Value(storage, T.self) }
    public func scalars() -> [T] { storage.data.withUnsafeBytes { Array($0.bindMemory(to: T.self)) } }
}

public final class Value: ValueConvertible {
    fileprivate let storage: Storage
    private let type: Any.Type
    fileprivate init(_ storage: Storage, _ type: Any.Type) { (self.storage, self.type) = (storage, type) }
    public func asValue() -> Value { self }
    public func tensor<T: Scalar>() -> Tensor<T>? { type == T.self ? Tensor<T>(storage) : nil }
}

public struct Unrecorded: LocalizedError {
    let what: String
    public var errorDescription: String? { what }
}

public final class Module {
    private static let inUse = NSLock()
    private let path: String
    private let recorded: URL?
    private var outputs: [Storage] = []

    public init(filePath: String) {
        path = filePath
        recorded = ProcessInfo.processInfo.environment["TOFE_RECORDED"].map(URL.init(fileURLWithPath:))
    }

    deinit {
        guard Module.inUse.try() else { fatalError("a module is given up while another is in use") }
        overwriteOutputs()
        Module.inUse.unlock()
    }

    public func load(_ method: String) throws {
        try alone {
            guard FileManager.default.fileExists(atPath: path), recorded != nil else { throw Unrecorded(what: "no file or recording") }
        }
    }

    public func execute(_ method: String, _ inputs: [ValueConvertible]) throws -> [Value] {
        try alone {
            overwriteOutputs()
            let values = try play(method, inputs[0].asValue().storage.data)
            outputs = values.map(\.storage)
            return values
        }
    }

    private func play(_ method: String, _ input: Data) throws -> [Value] {
        let runs = recorded!.appendingPathComponent(method)
        for run in try FileManager.default.contentsOfDirectory(atPath: runs.path) {
            let folder = runs.appendingPathComponent(run)
            guard try Data(contentsOf: folder.appendingPathComponent("input")) == input else { continue }
            var values: [Value] = []
            while true {
                let stem = folder.appendingPathComponent("\(values.count)")
                if let floats = try? Data(contentsOf: stem.appendingPathExtension("f32")) {
                    values.append(Value(Storage(floats), Float.self))
                } else if let indices = try? Data(contentsOf: stem.appendingPathExtension("i64")) {
                    values.append(Value(Storage(indices), Int64.self))
                } else {
                    return values
                }
            }
        }
        throw Unrecorded(what: "an input that was not recorded")
    }

    /// Fails where another module is in use, for long enough that two threads would meet.
    private func alone<R>(_ work: () throws -> R) throws -> R {
        guard Module.inUse.try() else { throw Unrecorded(what: "two modules are in use at once") }
        defer { Module.inUse.unlock() }
        Thread.sleep(forTimeInterval: 0.005)
        return try work()
    }

    private func overwriteOutputs() {
        for storage in outputs { storage.data = Data(repeating: 0xFF, count: storage.data.count) }
    }
}
