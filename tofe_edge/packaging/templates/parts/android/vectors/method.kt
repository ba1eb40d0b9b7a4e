    /**
     * @GIVES@
     *
     * Colours are taken as sRGB, and converted to it if the bitmap says that they are others; what is transparent is put
     * on white. A photograph's EXIF orientation is not in a bitmap: turn it upright before.
     *
     * @param bitmap of any size and configuration, not recycled.
     */
    @Throws(TofeException::class)
    fun @CALL@(bitmap: Bitmap): FloatArray {
        val pixels =
            failingAs(TofeException.Reason.INPUT, "the bitmap's pixels cannot be read") {
                Preprocessing.prepare(BitmapPixels.of(bitmap))
            }
        return finite(network.run(pixels).values)
    }
