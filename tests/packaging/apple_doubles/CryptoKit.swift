// SHA-256 (FIPS 180-4) by the names of Apple's CryptoKit.
import Foundation

public struct SHA256Digest: Sequence {
    let bytes: [UInt8]
    public func makeIterator() -> IndexingIterator<[UInt8]> { bytes.makeIterator() }
}

public struct SHA256 {
    private var state: [UInt32] = [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
    private var pending: [UInt8] = []
    private var total = 0

    public init() {}

    public static func hash(data: Data) -> SHA256Digest {
        var digest = SHA256()
        digest.update(data: data)
        return digest.finalize()
    }

    public mutating func update(data: Data) {
        total += data.count
        pending += data
        var begin = 0
        while pending.count - begin >= 64 {
            absorb(pending[begin..<(begin + 64)])
            begin += 64
        }
        pending.removeFirst(begin)
    }

    public func finalize() -> SHA256Digest {
        var last = self
        let bits = UInt64(total) * 8
        last.pending.append(0x80)
        while last.pending.count % 64 != 56 { last.pending.append(0) }
        for shift in stride(from: 56, through: 0, by: -8) { last.pending.append(UInt8(truncatingIfNeeded: bits >> UInt64(shift))) }
        for begin in stride(from: 0, to: last.pending.count, by: 64) { last.absorb(last.pending[begin..<(begin + 64)]) }
        return SHA256Digest(bytes: last.state.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32(24 - 8 * $0)) } })
    }

    private mutating func absorb(_ block: ArraySlice<UInt8>) {
        let bytes = Array(block)
        var w = [UInt32](repeating: 0, count: 64)
        for i in 0..<16 { w[i] = (0..<4).reduce(0) { $0 << 8 | UInt32(bytes[4 * i + $1]) } }
        for i in 16..<64 {
            let a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >> 3)
            let b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >> 10)
            w[i] = w[i - 16] &+ a &+ w[i - 7] &+ b
        }
        var v = state
        for i in 0..<64 {
            let s1 = turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)
            let one = v[7] &+ s1 &+ ((v[4] & v[5]) ^ (~v[4] & v[6])) &+ SHA256.constants[i] &+ w[i]
            let s0 = turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)
            let two = s0 &+ ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]))
            v = [one &+ two, v[0], v[1], v[2], v[3] &+ one, v[4], v[5], v[6]]
        }
        for i in 0..<8 { state[i] = state[i] &+ v[i] }
    }

    private func turn(_ word: UInt32, _ count: UInt32) -> UInt32 { word >> count | word << (32 - count) }

    /// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
    private static let constants: [UInt32] = {
        var primes: [Int] = []
        var number = 2
        while primes.count < 64 {
            if !primes.contains(where: { number % $0 == 0 }) { primes.append(number) }
            number += 1
        }
        return primes.map { prime in
            // The largest root of 40 bits whose cube is not above prime * 2^96; 128 bits are enough.
            var root: UInt64 = 0
            for bit in stride(from: UInt64(35), through: 0, by: -1) {
                let candidate = root | 1 << bit
                if cubeIsAtMost(candidate, prime) { root = candidate }
            }
            return UInt32(truncatingIfNeeded: root)
        }
    }()

    /// `value^3 <= prime * 2^96`, in pieces of 32 bits.
    private static func cubeIsAtMost(_ value: UInt64, _ prime: Int) -> Bool {
        func digits(_ a: [UInt64], _ b: [UInt64]) -> [UInt64] {
            var result = [UInt64](repeating: 0, count: a.count + b.count)
            for (i, x) in a.enumerated() {
                var carry: UInt64 = 0
                for (j, y) in b.enumerated() {
                    let sum = result[i + j] + x * y + carry
                    result[i + j] = sum & 0xffff_ffff
                    carry = sum >> 32
                }
                result[i + b.count] += carry
            }
            return result
        }
        let one = [value & 0xffff_ffff, value >> 32]
        let cube = digits(digits(one, one), one)
        let high = cube[3] | cube[4] << 32
        if cube[5] != 0 { return false }
        return high < UInt64(prime) || (high == UInt64(prime) && cube[0] == 0 && cube[1] == 0 && cube[2] == 0)
    }
}
