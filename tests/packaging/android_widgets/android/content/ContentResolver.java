package android.content;

public abstract class ContentResolver {
    public final native java.io.InputStream openInputStream(android.net.Uri uri);
}
