// SPDX-License-Identifier: Apache-2.0
import ExecuTorch
import Foundation

/// The loaded model: a square in, @OUTPUT@ out. Only its `@CLASS@` uses it, one call after the other.
///
/// All instances share ExecuTorch's thread pool and may share a backend's working memory, which grows and shrinks as models
/// come and go. So they take turns: one at a time loads, runs or is given up.
final class Network: @unchecked Sendable {
    private static let turn = NSLock()
    let budget: TofeBudget
    private var module: Module?

    private init(_ module: Module, budget: TofeBudget) {
        self.module = module
        self.budget = budget
    }

    deinit {
        Network.turn.withLock { module = nil }
    }

    static func load(_ configuration: TofeConfiguration) async throws -> Network {
        let path = try Resources.model().path
        return try turn.withLock {
            let module = Module(filePath: path)
            do {
                try module.load(configuration.budget.rawValue)
            } catch {
                throw TofeError.runtime(
                    "ExecuTorch cannot load it: \(error.localizedDescription) (is the app linked with -all_load?)")
            }
            return Network(module, budget: configuration.budget)
        }
    }

    func run(_ square: Square) throws -> Outputs {
        let values = Preprocessing.normalize(square).withUnsafeBytes { Data($0) }
        var batch = Data(capacity: values.count * Facts.batch)
        for _ in 0..<Facts.batch { batch.append(values) }
        let input = Tensor<Float>(
            data: batch, shape: [Facts.batch, PillowResize.channels, square.side, square.side])
        return try Network.turn.withLock { try outputs(input) }
    }

    /// Outputs lie in memory of the module, which its next run overwrites: they are copied before this returns.
    private func outputs(_ input: Tensor<Float>) throws -> Outputs {
        let outputs: [Value]
        do {
            outputs = try module?.execute(budget.rawValue, [input]) ?? []
        } catch {
            throw TofeError.runtime("ExecuTorch failed to run it: \(error.localizedDescription)")
        }
        guard outputs.count == 1 + budget.keptTokens.count else {
            throw TofeError.runtime("it has \(outputs.count) outputs, not what it should")
        }
        let values = try floats(outputs[0])
        guard values.count == Facts.batch * Facts.values else {
            throw TofeError.runtime("it has \(values.count) @OUTPUT@ where it should have \(Facts.batch * Facts.values)")
        }
        let selections = try outputs.dropFirst().map(selection)
        return Outputs(values: Array(values.prefix(Facts.values)), selections: selections)
    }

    /// The first image's selection: indices, or whole numbers as floats if the model selects by ranks.
    private func selection(_ value: Value) throws -> [Int] {
        let all = Facts.selectsByRank ? try tokenIndices(floats(value)) : try indices(value)
        return Array(all.prefix(all.count / Facts.batch))
    }

    private func floats(_ value: Value) throws -> [Float] {
        guard let tensor: Tensor<Float> = value.tensor() else {
            throw TofeError.runtime("an output has no numbers of single precision")
        }
        return tensor.scalars()
    }

    private func indices(_ value: Value) throws -> [Int] {
        guard let tensor: Tensor<Int64> = value.tensor() else {
            throw TofeError.runtime("a selection has no indices")
        }
        return tensor.scalars().map { Int($0) }
    }
}
