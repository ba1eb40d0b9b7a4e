// What the package uses of Core ML: a model that plays back what the project's executor made of recorded inputs.
@_exported import CoreVideo
import Foundation

public enum MLComputeUnits: Int, Sendable { case cpuOnly, cpuAndGPU, all, cpuAndNeuralEngine }

public final class MLModelConfiguration: @unchecked Sendable {
    public var computeUnits = MLComputeUnits.all
    public var functionName: String?
    public init() {}
}

public enum MLMultiArrayDataType { case float32 }

public final class MLMultiArray {
    public let shape: [NSNumber]
    public let count: Int
    private var values: [Float]
    private let strides: [Int]

    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        self.shape = shape
        let sizes = shape.map(\.intValue)
        count = sizes.reduce(1, *)
        strides = sizes.indices.map { sizes[($0 + 1)...].reduce(1, *) }
        values = [Float](repeating: .nan, count: count)
    }

    convenience init(_ values: [Float]) throws {
        try self.init(shape: [1, NSNumber(value: values.count)], dataType: .float32)
        self.values = values
    }

    public subscript(_ index: Int) -> NSNumber { NSNumber(value: values[index]) }

    public func withUnsafeMutableBufferPointer<S, R>(
        ofType type: S.Type, _ body: (UnsafeMutableBufferPointer<S>, [Int]) throws -> R
    ) rethrows -> R {
        try values.withUnsafeMutableBytes { try body($0.bindMemory(to: S.self), strides) }
    }

    var bytes: Data { values.withUnsafeBytes { Data($0) } }
}

public final class MLFeatureValue {
    public let multiArrayValue: MLMultiArray?
    let pixelBuffer: CVPixelBuffer?
    public init(pixelBuffer: CVPixelBuffer) { (multiArrayValue, self.pixelBuffer) = (nil, pixelBuffer) }
    public init(multiArray: MLMultiArray) { (multiArrayValue, pixelBuffer) = (multiArray, nil) }

    /// Red, green and blue of an image, or the numbers.
    var bytes: Data {
        guard let buffer = pixelBuffer else { return multiArrayValue!.bytes }
        precondition(buffer.locks == 0)
        var rgb = Data()
        for y in 0..<buffer.side {
            let row = (buffer.base + y * buffer.rowBytes).assumingMemoryBound(to: UInt8.self)
            for x in 0..<buffer.side { rgb += [row[4 * x + 2], row[4 * x + 1], row[4 * x]] }
        }
        return rgb
    }
}

public protocol MLFeatureProvider { func featureValue(for name: String) -> MLFeatureValue? }

public final class MLDictionaryFeatureProvider: MLFeatureProvider {
    private let dictionary: [String: Any]
    public init(dictionary: [String: Any]) throws { self.dictionary = dictionary }
    public func featureValue(for name: String) -> MLFeatureValue? { dictionary[name] as? MLFeatureValue }
}

public struct Unrecorded: LocalizedError {
    let what: String
    public var errorDescription: String? { what }
}

public final class MLPredictionOptions { public init() {} }

public final class MLModel: @unchecked Sendable {
    private let recorded: URL

    private init(_ recorded: URL) { self.recorded = recorded }

    private static let counter = NSLock()
    nonisolated(unsafe) private static var counted = 0
    /// How often a model was compiled.
    public static var compilations: Int { counter.withLock { counted } }

    public static func compileModel(at url: URL) async throws -> URL {
        counter.withLock { counted += 1 }
        // Long enough for another caller to come meanwhile.
        try await Task.sleep(nanoseconds: 50_000_000)
        let made = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).mlmodelc")
        try FileManager.default.copyItem(at: url, to: made)
        return made
    }

    public static func load(contentsOf url: URL, configuration: MLModelConfiguration) async throws -> MLModel {
        guard FileManager.default.fileExists(atPath: url.appendingPathComponent("Manifest.json").path) else {
            throw Unrecorded(what: "\(url.lastPathComponent) is no compiled model")
        }
        guard let folder = ProcessInfo.processInfo.environment["TOFE_RECORDED"] else { throw Unrecorded(what: "no recording") }
        return MLModel(URL(fileURLWithPath: folder).appendingPathComponent(configuration.functionName ?? "main"))
    }

    public func prediction(from input: MLFeatureProvider) throws -> MLFeatureProvider {
        guard let bytes = input.featureValue(for: "image")?.bytes else { throw Unrecorded(what: "no input image") }
        for run in try FileManager.default.contentsOfDirectory(atPath: recorded.path) {
            let folder = recorded.appendingPathComponent(run)
            guard try Data(contentsOf: folder.appendingPathComponent("input")) == bytes else { continue }
            var outputs: [String: Any] = [:]
            for file in try FileManager.default.contentsOfDirectory(atPath: folder.path) where file.hasSuffix(".f32") {
                let content = try Data(contentsOf: folder.appendingPathComponent(file))
                let values = content.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
                outputs[String(file.dropLast(4))] = MLFeatureValue(multiArray: try MLMultiArray(values))
            }
            return try MLDictionaryFeatureProvider(dictionary: outputs)
        }
        throw Unrecorded(what: "an input that was not recorded")
    }

    public func prediction(
        from input: MLFeatureProvider, options: MLPredictionOptions = MLPredictionOptions()
    ) async throws -> MLFeatureProvider {
        throw Unrecorded(what: "the package predicts synchronously")
    }
}
