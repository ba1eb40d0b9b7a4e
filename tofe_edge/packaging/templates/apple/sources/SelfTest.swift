// SPDX-License-Identifier: Apache-2.0
import Foundation

/// What `@CLASS@.selfTest()` found.
public struct SelfTestResult: Equatable, Sendable, CustomStringConvertible {
    /// How close the @OUTPUT@ @IS_ARE@, in decibels; infinite if they are the same.
    public let snrDb: Double
    public let psnrDb: Double
    /// Per stage, the share of tokens kept here that were kept where the model was converted.
    public let keptOverlap: [Double]
    /// What is out of its bounds, in words.
    public let failures: [String]

    public var passed: Bool { failures.isEmpty }

    public var description: String {
        passed ? "passed, \(String(format: "%.1f", snrDb)) dB" : "FAILED: \(failures.joined(separator: "; "))"
    }
}

/// Replays the golden vectors of one budget, by the same gates as `tofe-edge run --self-test`.
enum SelfTest {
    private struct Document: Decodable {
        let artifactSha256: String
        let vectors: [Vector]
    }

    private struct Vector: Decodable {
        let method: String
        let file: String
        let @OUTPUT@: [Double]
        /// The patches whose features are stored; nil if all numbers are.
        let tokens: [Int]?
        let kept: [[Int]]
        let nearTie: Bool

        /// Of a run's numbers those that are stored; nil if they are not as many.
        func stored(_ values: [Float]) -> [Float]? {
            let size = Facts.vectorSize
            let rows = tokens ?? Array(0..<(values.count / size))
            guard rows.allSatisfy({ $0 >= 0 && ($0 + 1) * size <= values.count }), rows.count * size == @OUTPUT@.count else {
                return nil
            }
            return rows.flatMap { values[($0 * size)..<(($0 + 1) * size)] }
        }
    }

    static func run(_ network: Network) throws -> SelfTestResult {
        let all = try vectors(of: network.budget)
        // If either of two tokens may rightly be kept, the input says nothing; if all are so, they must do.
        let clear = all.filter { !(Facts.skipsNearTies && $0.nearTie) }
        let stages = network.budget.keptTokens
        var distance = OutputDistance()
        var overlaps = [[Double]](repeating: [], count: stages.count)
        for vector in clear.isEmpty ? all : clear {
            let outputs = try network.run(readSquare("\(Facts.goldenFolder)/\(vector.file)"))
            guard let stored = vector.stored(outputs.values) else {
                throw TofeError.damaged("a golden vector has another number of @OUTPUT@ than the model")
            }
            distance.add(expected: vector.@OUTPUT@.map(Float.init), actual: stored)
            guard let kept = keptPositions(outputs.selections, kept: stages), kept.count == vector.kept.count else {
                throw TofeError.runtime("the tokens that it selected do not fit together")
            }
            for (stage, expected) in vector.kept.enumerated() {
                let shared = expected.filter(kept[stage].contains).count
                overlaps[stage].append(Double(shared) / Double(max(1, expected.count)))
            }
        }
        return judge(distance, overlaps.map { $0.reduce(0, +) / Double($0.count) })
    }

    static func judge(_ distance: OutputDistance, _ overlaps: [Double]) -> SelfTestResult {
        var failures: [String] = []
        for (name, actual, expected) in [
            ("SNR", distance.snr, Facts.minSnrDb), ("PSNR", distance.psnr, Facts.minPsnrDb),
        ] where !(actual >= expected) {
            failures.append(String(format: "@OUTPUT@ \(name) %.1f dB is under %.0f dB", actual, expected))
        }
        for (stage, overlap) in overlaps.enumerated() where !(overlap >= Facts.minKeptOverlap - 1e-9) {
            failures.append("kept tokens of stage \(stage + 1): \(overlap) is under \(Facts.minKeptOverlap)")
        }
        return SelfTestResult(
            snrDb: distance.snr, psnrDb: distance.psnr, keptOverlap: overlaps, failures: failures)
    }

    private static func vectors(of budget: TofeBudget) throws -> [Vector] {
        let file = "\(Facts.goldenFolder)/golden.json"
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let document: Document
        do {
            document = try decoder.decode(Document.self, from: Resources.content(file))
        } catch let error as DecodingError {
            throw TofeError.damaged("\(file) cannot be read: \(error.localizedDescription)")
        }
        let vectors = document.vectors.filter { $0.method == budget.rawValue }
        guard document.artifactSha256 == Facts.sha256, !vectors.isEmpty else {
            throw TofeError.damaged("\(file) is another model's")
        }
        return vectors
    }
}
