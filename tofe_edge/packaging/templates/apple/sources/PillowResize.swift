// SPDX-License-Identifier: Apache-2.0

/// Antialiased resizing of 8-bit images with the numbers of Pillow 13, which the model was measured with: filter weights in
/// doubles, rounded to 22 fractional bits, bytes between the two passes, and the passes in the order that Pillow takes.
enum PillowResize {
    static let channels = 3
    private static let fractionBits = 22
    private static let half = 1 << (fractionBits - 1)

    enum Filter {
        case bilinear, bicubic

        /// How far the filter reaches at scale 1.
        var support: Double { self == .bilinear ? 1 : 2 }

        func weight(_ position: Double) -> Double {
            let x = abs(position)
            if self == .bilinear { return x < 1 ? 1 - x : 0 }
            let a = -0.5
            if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
            return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
        }
    }

    /// For each position of the output: the first input position that counts, and the weights from there on.
    private struct Weights {
        var first: [Int] = []
        var values: [[Int]] = []
    }

    /// A window of the resized image.
    ///
    /// - Parameters:
    ///   - width: of the whole resized image, as `height`; if they are the source's, pixels are only copied.
    ///   - left: column where the window begins, and `top` its row.
    ///   - size: side of the window.
    /// - Returns: `size x size x 3` bytes, rows first.
    static func window(
        _ source: Pixels, width: Int, height: Int, filter: Filter, left: Int, top: Int, size: Int
    ) -> [UInt8] {
        let across = weights(from: source.width, to: width, filter: filter, begin: left, count: size)
        let down = weights(from: source.height, to: height, filter: filter, begin: top, count: size)
        guard let firstRow = down.first.min(),
            let lastRow = zip(down.first, down.values).map({ $0 + $1.count }).max()
        else { return [] }
        // As Pillow does since version 13: rows first if that takes many more of them away than columns.
        let rowsFirst = height < source.height && source.height - height > 2 * (source.width - width)
        let rows = firstRow..<lastRow
        return rowsFirst
            ? rowsThenColumns(source, rows: rows, across: across, down: down)
            : columnsThenRows(source, rows: rows, across: across, down: down)
    }

    private static func columnsThenRows(
        _ source: Pixels, rows: Range<Int>, across: Weights, down: Weights
    ) -> [UInt8] {
        var row = [UInt8](repeating: 0, count: source.width * channels)
        let line = across.values.count * channels
        var narrowed = [UInt8](repeating: 0, count: rows.count * line)
        for y in rows {
            source.copyRow(y, into: &row)
            narrow(row, by: across, into: &narrowed, at: (y - rows.lowerBound) * line)
        }
        return shorten(narrowed, line: line, firstRow: rows.lowerBound, by: down)
    }

    private static func rowsThenColumns(
        _ source: Pixels, rows: Range<Int>, across: Weights, down: Weights
    ) -> [UInt8] {
        var row = [UInt8](repeating: 0, count: source.width * channels)
        // Every row is read once and added to all rows of the result that it has a weight in.
        var sums = [[Int]](repeating: [Int](repeating: half, count: row.count), count: down.values.count)
        for y in rows {
            source.copyRow(y, into: &row)
            for (target, weights) in down.values.enumerated() {
                let k = y - down.first[target]
                guard weights.indices.contains(k) else { continue }
                for x in row.indices { sums[target][x] &+= Int(row[x]) &* weights[k] }
            }
        }
        let line = across.values.count * channels
        var result = [UInt8](repeating: 0, count: sums.count * line)
        for (y, sum) in sums.enumerated() {
            narrow(sum.map(byte), by: across, into: &result, at: y * line)
        }
        return result
    }

    private static func narrow(_ row: [UInt8], by across: Weights, into result: inout [UInt8], at begin: Int) {
        row.withUnsafeBufferPointer { row in
            for (x, weights) in across.values.enumerated() {
                var position = across.first[x] * channels
                var (red, green, blue) = (half, half, half)
                for weight in weights {
                    red &+= Int(row[position]) &* weight
                    green &+= Int(row[position + 1]) &* weight
                    blue &+= Int(row[position + 2]) &* weight
                    position += channels
                }
                result[begin + x * channels] = byte(red)
                result[begin + x * channels + 1] = byte(green)
                result[begin + x * channels + 2] = byte(blue)
            }
        }
    }

    private static func shorten(_ rows: [UInt8], line: Int, firstRow: Int, by down: Weights) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: down.values.count * line)
        rows.withUnsafeBufferPointer { rows in
            for (y, weights) in down.values.enumerated() {
                let begin = (down.first[y] - firstRow) * line
                for x in 0..<line {
                    var sum = half
                    for (k, weight) in weights.enumerated() { sum &+= Int(rows[begin + k * line + x]) &* weight }
                    result[y * line + x] = byte(sum)
                }
            }
        }
        return result
    }

    private static func byte(_ sum: Int) -> UInt8 { UInt8(min(255, max(0, sum >> fractionBits))) }

    private static func weights(from: Int, to: Int, filter: Filter, begin: Int, count: Int) -> Weights {
        var result = Weights()
        let scale = Double(from) / Double(to)
        let stretch = max(scale, 1)
        let support = filter.support * stretch
        for position in begin..<(begin + count) {
            if from == to {
                // Pillow leaves a pass out that changes no size; a single weight of one is that.
                result.first.append(position)
                result.values.append([1 << fractionBits])
                continue
            }
            let center = (Double(position) + 0.5) * scale
            let low = max(0, Int(center - support + 0.5))
            let high = min(from, Int(center + support + 0.5))
            result.first.append(low)
            result.values.append(fixed((low..<high).map { filter.weight((Double($0) - center + 0.5) * (1 / stretch)) }))
        }
        return result
    }

    /// Weights of sum one, as whole numbers of 2^-22, rounded away from zero at a half.
    private static func fixed(_ weights: [Double]) -> [Int] {
        let sum = weights.reduce(0, +)
        return weights.map { weight in
            let share = sum != 0 ? weight / sum : weight
            return Int(share * Double(1 << fractionBits) + (share < 0 ? -0.5 : 0.5))
        }
    }
}
