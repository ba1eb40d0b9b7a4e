    /**
     * The likeliest classes of an image, best first.
     *
     * Colours are taken as sRGB, and converted to it if the bitmap says that they are others; what is transparent is put
     * on white. A photograph's EXIF orientation is not in a bitmap: turn it upright before.
     *
     * @param bitmap of any size and configuration, not recycled.
     * @param count how many classes, at least 1; fewer come back if the model has fewer.
     */
    @JvmOverloads
    @Throws(TofeException::class)
    fun classify(bitmap: Bitmap, count: Int = 5): List<Prediction> {
        if (count < 1) throw TofeException(TofeException.Reason.INPUT, "count must be at least 1, not $count")
        val pixels =
            failingAs(TofeException.Reason.INPUT, "the bitmap's pixels cannot be read") {
                Preprocessing.prepare(BitmapPixels.of(bitmap))
            }
        return topClasses(network.run(pixels).values, count).map {
            Prediction(it.index, network.labels[it.index], it.probability)
        }
    }
