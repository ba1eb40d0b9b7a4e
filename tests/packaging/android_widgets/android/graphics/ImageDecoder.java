package android.graphics;

import android.content.ContentResolver;
import android.net.Uri;
import android.util.Size;
import java.io.IOException;

public final class ImageDecoder {
    public static final int ALLOCATOR_SOFTWARE = 1;

    public abstract static class Source {}

    public static class ImageInfo {
        public native Size getSize();
    }

    public interface OnHeaderDecodedListener {
        void onHeaderDecoded(ImageDecoder decoder, ImageInfo info, Source source);
    }

    public static native Source createSource(ContentResolver cr, Uri uri);

    public static native Bitmap decodeBitmap(Source src, OnHeaderDecodedListener listener) throws IOException;

    public native int getAllocator();

    public native void setAllocator(int allocator);

    public native void setTargetSampleSize(int sampleSize);
}
