// SPDX-License-Identifier: Apache-2.0
import CoreML

/// The square as the normalised numbers that the model takes.
enum ModelInput {
    static func feature(_ square: Square) throws -> MLFeatureValue {
        let shape = [1, PillowResize.channels, square.side, square.side]
        let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .float32)
        let values = Preprocessing.normalize(square)
        array.withUnsafeMutableBufferPointer(ofType: Float.self) { buffer, strides in
            for channel in 0..<PillowResize.channels {
                for y in 0..<square.side {
                    let from = (channel * square.side + y) * square.side
                    let to = channel * strides[1] + y * strides[2]
                    for x in 0..<square.side { buffer[to + x * strides[3]] = values[from + x] }
                }
            }
        }
        return MLFeatureValue(multiArray: array)
    }
}
