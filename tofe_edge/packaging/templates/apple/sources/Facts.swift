// SPDX-License-Identifier: Apache-2.0

/// What `Model/@NAME@.json` says, written here by tofe-edge when it packaged the model.
enum Facts {
    static let modelFile = "@MODEL_FILE@"
    /// Of a package: over the lines `path NUL size NUL sha256` of its files, in the order of their paths.
    static let sha256 = "@SHA256@"
    static let sizeBytes = @SIZE_BYTES@

@LABELS_FACT@    static let goldenFolder = "@NAME@.golden"
    /// SHA-256 of the other files in `Model` that are read on the device.
    static let sums: [String: String] = [
@SUMS@
    ]

    /// What the model gives, its numbers for one image, and how many of them belong to one vector.
    static let output = "@OUTPUT@"
    static let values = @VALUES@
    static let vectorSize = @VECTOR_SIZE@
    static let batch = @BATCH@
    static let selectsByRank = @SELECTS_BY_RANK@

    static let imageSize = @IMAGE_SIZE@
    /// What the short side is resized to; nil if the centre is cut out at once.
    static let shortSide: Int? = @SHORT_SIDE@
    static let filter = PillowResize.Filter.@FILTER@
    /// As bits, which no reading of decimals can change: @MEAN_TEXT@.
    static let mean: [Float] = [@MEAN@]
    /// @STD_TEXT@.
    static let std: [Float] = [@STD@]

    /// The gates of the self-test, by the model's precision: @PRECISION@.
    static let minSnrDb: Double = @MIN_SNR_DB@
    static let minPsnrDb: Double = @MIN_PSNR_DB@
    static let minKeptOverlap: Double = @MIN_KEPT_OVERLAP@
    static let skipsNearTies = @SKIPS_NEAR_TIES@
}
