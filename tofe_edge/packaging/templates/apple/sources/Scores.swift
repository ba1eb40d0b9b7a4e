// SPDX-License-Identifier: Apache-2.0
import Foundation

/// What one run gives: numbers of the model, such as one per class, and per stage the tokens in the order of their selection.
struct Outputs {
    let values: [Float]
    let selections: [[Int]]
}

@RANKING@/// Indices of tokens that a model gives as numbers; what is not a whole number is refused.
func tokenIndices<Number: BinaryFloatingPoint>(_ numbers: [Number]) throws -> [Int] {
    try numbers.map { number in
        guard let index = Int(exactly: number) else { throw TofeError.runtime("a selection holds \(number), which is not an index") }
        return index
    }
}

/// Positions in the image of the tokens that each stage keeps: selection s indexes what selection s - 1 put in order.
///
/// Nil if the selections do not fit together, which no sound model does.
func keptPositions(_ selections: [[Int]], kept: [Int]) -> [Set<Int>]? {
    var before: [Int]?
    var result: [Set<Int>] = []
    for (selection, count) in zip(selections, kept) {
        var now = selection
        if let tokens = before {
            guard selection.allSatisfy(tokens.indices.contains) else { return nil }
            now = selection.map { tokens[$0] }
        }
        before = now
        result.append(Set(now.prefix(count)))
    }
    return result
}

/// Signal, noise and peak of what the model gives, gathered over images.
struct OutputDistance {
    private var signal = 0.0
    private var noise = 0.0
    private var peak = 0.0
    private var count = 0
    private var finite = true

    mutating func add(expected: [Float], actual: [Float]) {
        for (want, have) in zip(expected, actual) {
            let difference = Double(want) - Double(have)
            signal += Double(want) * Double(want)
            noise += difference * difference
            peak = max(peak, abs(Double(want)))
            finite = finite && have.isFinite
        }
        count += expected.count
    }

    /// In decibels: infinite if nothing differs, minus infinity if one is not a number.
    var snr: Double {
        if !finite { return -.infinity }
        if noise == 0 { return .infinity }
        return signal == 0 ? -.infinity : 10 * log10(signal / noise)
    }

    /// The same with the square of the largest number in place of their mean power.
    var psnr: Double {
        signal == 0 ? snr : snr + 20 * log10(peak) - 10 * log10(signal / Double(count))
    }
}
