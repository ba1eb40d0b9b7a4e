    private let network: Network

    /// Checks and loads the model.
    public init(configuration: TofeConfiguration = TofeConfiguration()) async throws {
        // Reading some megabytes and compiling a model must not hold up whoever calls, the main actor least of all.
        let task = Task.detached(priority: .userInitiated) { try await Network.load(configuration) }
        network = try await task.value
        budget = configuration.budget
    }
