package android.graphics;

/** Pixels as 0xAARRGGBB. Those of a HARDWARE bitmap cannot be read, as on a device. */
public final class Bitmap {
    public enum Config {
        ARGB_8888,
        HARDWARE
    }

    private final int[] argb;
    private final int width;
    private final int height;
    private final Config config;

    public boolean recycled;

    /** Thrown where its pixels are asked for: what a bitmap that is recycled meanwhile does, or one too large for a copy. */
    public Throwable fault;

    public Bitmap(int[] argb, int width, int height, Config config) {
        this.argb = argb;
        this.width = width;
        this.height = height;
        this.config = config;
    }

    public int getWidth() {
        return width;
    }

    public int getHeight() {
        return height;
    }

    public boolean isRecycled() {
        return recycled;
    }

    public Config getConfig() {
        return config;
    }

    public Bitmap copy(Config config, boolean isMutable) {
        Bitmap copy = new Bitmap(argb, width, height, config);
        if (fault instanceof OutOfMemoryError) throw (OutOfMemoryError) fault;
        copy.fault = fault;
        return copy;
    }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        if (fault != null) throw (RuntimeException) fault;
        if (config == Config.HARDWARE) throw new IllegalStateException("pixels of a hardware bitmap");
        for (int row = 0; row < height; row++) {
            System.arraycopy(argb, (y + row) * this.width + x, pixels, offset + row * stride, width);
        }
    }
}
