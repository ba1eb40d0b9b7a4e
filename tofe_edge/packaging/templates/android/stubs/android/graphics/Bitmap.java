package android.graphics;

public final class Bitmap {
    public enum Config {
        ARGB_8888
    }

    public native int getWidth();
    public native int getHeight();
    public native boolean isRecycled();
    public native Config getConfig();
    public native Bitmap copy(Config config, boolean isMutable);
    public native void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height);
}
