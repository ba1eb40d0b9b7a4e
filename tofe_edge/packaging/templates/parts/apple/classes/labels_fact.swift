    static let labelsFile = "@LABELS_FILE@"
