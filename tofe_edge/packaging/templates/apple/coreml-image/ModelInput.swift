// SPDX-License-Identifier: Apache-2.0
import CoreML
import CoreVideo

/// The square as the image that the model takes; it normalises pixels itself.
enum ModelInput {
    static func feature(_ square: Square) throws -> MLFeatureValue {
        var made: CVPixelBuffer?
        let options = [kCVPixelBufferIOSurfacePropertiesKey as String: [String: Any]()] as CFDictionary
        CVPixelBufferCreate(
            kCFAllocatorDefault, square.side, square.side, kCVPixelFormatType_32BGRA, options, &made)
        guard let buffer = made, CVPixelBufferLockBaseAddress(buffer, []) == kCVReturnSuccess else {
            throw TofeError.runtime("there is no memory for an image")
        }
        defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
        guard let base = CVPixelBufferGetBaseAddress(buffer) else {
            throw TofeError.runtime("there is no memory for an image")
        }
        let rowBytes = CVPixelBufferGetBytesPerRow(buffer)
        for y in 0..<square.side {
            let row = (base + y * rowBytes).assumingMemoryBound(to: UInt8.self)
            for x in 0..<square.side {
                let from = (y * square.side + x) * PillowResize.channels
                row[4 * x] = square.bytes[from + 2]
                row[4 * x + 1] = square.bytes[from + 1]
                row[4 * x + 2] = square.bytes[from]
                row[4 * x + 3] = 255
            }
        }
        return MLFeatureValue(pixelBuffer: buffer)
    }
}
