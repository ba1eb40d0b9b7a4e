// SPDX-License-Identifier: Apache-2.0
import CoreML
import Foundation

/// The loaded model: a square in, @OUTPUT@ out. Only its `@CLASS@` uses it, one call after the other.
final class Network: @unchecked Sendable {
    let budget: TofeBudget
    private let model: MLModel

    private init(_ model: MLModel, budget: TofeBudget) {
        self.model = model
        self.budget = budget
    }

    static func load(_ configuration: TofeConfiguration) async throws -> Network {
        let options = MLModelConfiguration()
        options.computeUnits = configuration.computeUnits
        // The budget that the model was converted for is what a package runs by default.
        if configuration.budget != .standard {
            guard #available(iOS 18.0, macOS 15.0, *) else {
                throw TofeError.runtime("further budgets need iOS 18 or macOS 15")
            }
            options.functionName = configuration.budget.rawValue
        }
        return Network(try await CompiledModel.load(options), budget: configuration.budget)
    }

    func run(_ square: Square) throws -> Outputs {
        let outputs: MLFeatureProvider
        do {
            let inputs = try MLDictionaryFeatureProvider(dictionary: ["image": ModelInput.feature(square)])
            outputs = try model.prediction(from: inputs)
        } catch let error as TofeError {
            throw error
        } catch {
            throw TofeError.runtime("Core ML failed to run it: \(error.localizedDescription)")
        }
        let values = try numbers("@OUTPUT@", in: outputs).map(\.floatValue)
        guard values.count == Facts.values else {
            throw TofeError.runtime("it has \(values.count) @OUTPUT@ where it should have \(Facts.values)")
        }
        let selections = try budget.keptTokens.indices.map { stage in
            // Computed in half precision, so rounded, as the reference does.
            let order = try numbers("tokenOrder\(stage + 1)", in: outputs)
            return try tokenIndices(order.map { $0.doubleValue.rounded(.toNearestOrEven) })
        }
        return Outputs(values: values, selections: selections)
    }

    private func numbers(_ name: String, in outputs: MLFeatureProvider) throws -> [NSNumber] {
        guard let array = outputs.featureValue(for: name)?.multiArrayValue else {
            throw TofeError.runtime("it has no output \(name)")
        }
        return (0..<array.count).map { array[$0] }
    }
}
