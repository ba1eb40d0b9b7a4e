package android.graphics;

public class BitmapFactory {
    public static class Options {
        public Bitmap.Config inPreferredConfig;
        public boolean inScaled;
    }

    public static native Bitmap decodeStream(java.io.InputStream is, Rect outPadding, Options opts);
}
