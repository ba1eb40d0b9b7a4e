
    static func labels() throws -> [String] {
        let lines = String(decoding: try content(Facts.labelsFile), as: UTF8.self).split(separator: "\n")
        guard lines.count == Facts.values else {
            throw TofeError.damaged("\(Facts.labelsFile) has \(lines.count) lines, not \(Facts.values)")
        }
        return lines.map(String.init)
    }
