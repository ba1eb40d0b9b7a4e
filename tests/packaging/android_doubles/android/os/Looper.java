package android.os;

/** The main thread is the one of this name. */
public final class Looper {
    public static final String MAIN = "main looper";

    private static final Looper ONLY = new Looper();

    public static Looper getMainLooper() {
        return ONLY;
    }

    public static Looper myLooper() {
        return Thread.currentThread().getName().equals(MAIN) ? ONLY : null;
    }
}
