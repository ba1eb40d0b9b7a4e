    private let network: Network
    private let labels: [String]

    /// Checks and loads the model.
    public init(configuration: TofeConfiguration = TofeConfiguration()) async throws {
        // Reading some megabytes and compiling a model must not hold up whoever calls, the main actor least of all.
        let task = Task.detached(priority: .userInitiated) {
            (try Resources.labels(), try await Network.load(configuration))
        }
        (labels, network) = try await task.value
        budget = configuration.budget
    }
