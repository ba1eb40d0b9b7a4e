// SPDX-License-Identifier: Apache-2.0

/// The pixels of an upright image. Turning it upright changes where pixels are looked up, and copies none.
struct Pixels {
    static let stored = 4
    let width: Int
    let height: Int
    private let bytes: [UInt8]
    private let origin: Int
    private let stepAcross: Int
    private let stepDown: Int

    /// - Parameters:
    ///   - bytes: red, green, blue and one that is not used, rows first.
    ///   - width: as stored, before turning; and `height`.
    ///   - exifOrientation: 1 to 8; 1 is upright.
    init(bytes: [UInt8], width: Int, height: Int, exifOrientation: Int = 1) {
        let (across, down) = (Pixels.stored, Pixels.stored * width)
        let (right, bottom) = (across * (width - 1), down * (height - 1))
        self.bytes = bytes
        switch exifOrientation {
        case 2: (origin, stepAcross, stepDown) = (right, -across, down)
        case 3: (origin, stepAcross, stepDown) = (right + bottom, -across, -down)
        case 4: (origin, stepAcross, stepDown) = (bottom, across, -down)
        case 5: (origin, stepAcross, stepDown) = (0, down, across)
        case 6: (origin, stepAcross, stepDown) = (bottom, -down, across)
        case 7: (origin, stepAcross, stepDown) = (right + bottom, -down, -across)
        case 8: (origin, stepAcross, stepDown) = (right, down, -across)
        default: (origin, stepAcross, stepDown) = (0, across, down)
        }
        let turned = (5...8).contains(exifOrientation)
        self.width = turned ? height : width
        self.height = turned ? width : height
    }

    /// Fills `row` with the red, green and blue of row `y`: `3 x width` bytes.
    func copyRow(_ y: Int, into row: inout [UInt8]) {
        bytes.withUnsafeBufferPointer { bytes in
            var from = origin + y * stepDown
            for to in stride(from: 0, to: width * PillowResize.channels, by: PillowResize.channels) {
                row[to] = bytes[from]
                row[to + 1] = bytes[from + 1]
                row[to + 2] = bytes[from + 2]
                from += stepAcross
            }
        }
    }
}
