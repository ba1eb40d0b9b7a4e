/// The `count` likeliest classes, best first; of equal ones the lower index first.
func topClasses(_ logits: [Float], labels: [String], count: Int) -> [Prediction] {
    let highest = Double(logits.max() ?? 0)
    let powers = logits.map { exp(Double($0) - highest) }
    let sum = powers.reduce(0, +)
    let order = powers.indices.sorted { powers[$0] == powers[$1] ? $0 < $1 : powers[$0] > powers[$1] }
    return order.prefix(count).map { Prediction(index: $0, label: labels[$0], probability: powers[$0] / sum) }
}

