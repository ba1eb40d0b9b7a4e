// What the package uses of ExecuTorch: a module that plays back what ExecuTorch made of recorded inputs.
import Foundation

public protocol Scalar {}
extension Float: Scalar {}
extension Int64: Scalar {}

public protocol ValueConvertible { func asValue() -> Value }

public final class Tensor<T: Scalar>: ValueConvertible {
    fileprivate let data: Data
    public init(data: Data, shape: [Int]) {
        precondition(data.count == shape.reduce(MemoryLayout<T>.stride, *))
        self.data = data
    }
    public func asValue() -> Value { Value(data, T.self) }
    public func scalars() -> [T] { data.withUnsafeBytes { Array($0.bindMemory(to: T.self)) } }
}

public final class Value: ValueConvertible {
    fileprivate let data: Data
    private let type: Any.Type
    fileprivate init(_ data: Data, _ type: Any.Type) { (self.data, self.type) = (data, type) }
    public func asValue() -> Value { self }
    public func tensor<T: Scalar>() -> Tensor<T>? {
        type == T.self ? Tensor<T>(data: data, shape: [data.count / MemoryLayout<T>.stride]) : nil
    }
}

public struct Unrecorded: LocalizedError {
    let what: String
    public var errorDescription: String? { what }
}

public final class Module {
    private let path: String
    private let recorded: URL?

    public init(filePath: String) {
        path = filePath
        recorded = ProcessInfo.processInfo.environment["TOFE_RECORDED"].map(URL.init(fileURLWithPath:))
    }

    public func load(_ method: String) throws {
        guard FileManager.default.fileExists(atPath: path), recorded != nil else { throw Unrecorded(what: "no file or recording") }
    }

    public func execute(_ method: String, _ inputs: [ValueConvertible]) throws -> [Value] {
        let runs = recorded!.appendingPathComponent(method)
        for run in try FileManager.default.contentsOfDirectory(atPath: runs.path) {
            let folder = runs.appendingPathComponent(run)
            guard try Data(contentsOf: folder.appendingPathComponent("input")) == inputs[0].asValue().data else { continue }
            var outputs: [Value] = []
            while true {
                let stem = folder.appendingPathComponent("\(outputs.count)")
                if let floats = try? Data(contentsOf: stem.appendingPathExtension("f32")) {
                    outputs.append(Value(floats, Float.self))
                } else if let indices = try? Data(contentsOf: stem.appendingPathExtension("i64")) {
                    outputs.append(Value(indices, Int64.self))
                } else {
                    return outputs
                }
            }
        }
        throw Unrecorded(what: "an input that was not recorded")
    }
}
