package android.graphics;

public class BitmapFactory {
    public static class Options {
        public Bitmap.Config inPreferredConfig;
        public boolean inScaled;
        public boolean inJustDecodeBounds;
        public int inSampleSize;
        public int outWidth;
        public int outHeight;
    }

    public static native Bitmap decodeFile(String pathName, Options opts);

    public static native Bitmap decodeStream(java.io.InputStream is, Rect outPadding, Options opts);
}
